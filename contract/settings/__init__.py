# SPDX-License-Identifier: Apache-2.0
"""Settings: a closed set, loud about everything it does not know.

A setting comes from, strongest first: a command-line flag, the environment (``MILLRACE_GATEWAY__PORT=9000``), the YAML
file, the default. This package is the only place that reads any of them.
"""

from contract.settings.engines import Engine, EngineLaunch
from contract.settings.filters import (
    FeedbackFilter,
    Filter,
    MetadataFilter,
    MetadataPair,
    ScoreFilter,
    nanoseconds,
)
from contract.settings.load import load_settings, parse_section, parse_settings, yaml_value
from contract.settings.loops import Loop, Trigger
from contract.settings.origins import dotted
from contract.settings.policy import PayloadPolicy, Redaction, Retention
from contract.settings.prices import Price, listed_length, listed_price
from contract.settings.providers import Provider
from contract.settings.references import listeners
from contract.settings.sandbox import SandboxSettings
from contract.settings.schema import (
    FeedbackMetric,
    GatewaySettings,
    JudgeSampling,
    JudgeSettings,
    Kafka,
    LogSettings,
    Model,
    Settings,
    SpoolSettings,
    StoreSettings,
    TrainerSettings,
    local_url,
)

__all__ = [
    "Engine",
    "EngineLaunch",
    "FeedbackFilter",
    "FeedbackMetric",
    "Filter",
    "GatewaySettings",
    "JudgeSampling",
    "JudgeSettings",
    "Kafka",
    "LogSettings",
    "Loop",
    "MetadataFilter",
    "MetadataPair",
    "Model",
    "PayloadPolicy",
    "Price",
    "Provider",
    "Redaction",
    "Retention",
    "SandboxSettings",
    "ScoreFilter",
    "Settings",
    "SpoolSettings",
    "StoreSettings",
    "TrainerSettings",
    "Trigger",
    "dotted",
    "listed_length",
    "listed_price",
    "listeners",
    "load_settings",
    "local_url",
    "nanoseconds",
    "parse_section",
    "parse_settings",
    "yaml_value",
]
