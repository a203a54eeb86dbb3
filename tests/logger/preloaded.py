# SPDX-License-Identifier: Apache-2.0
"""What takes long to import and is none of ours: loaded once, in the process that the tests' children are forked from.

Nothing that a fault can be armed in is here: a child imports that itself, with its own environment.
"""

import asyncio  # noqa: F401
import gc
import logging.config  # noqa: F401

import aiohttp  # noqa: F401
import alembic.command  # noqa: F401
import duckdb  # noqa: F401
import fastapi.testclient  # noqa: F401
import httptools  # noqa: F401
import kafka.admin
import kafka.consumer.fetcher  # noqa: F401
import msgspec  # noqa: F401
import numpy  # noqa: F401
import orjson  # noqa: F401
import prometheus_client  # noqa: F401
import psutil  # noqa: F401
import pyarrow
import pyarrow.parquet  # noqa: F401
import sqlalchemy.orm  # noqa: F401
import uvicorn.lifespan.on
import uvicorn.loops.auto
import uvicorn.protocols.http.auto  # noqa: F401
import yaml  # noqa: F401

import contract.columns
import contract.records
import contract.settings  # noqa: F401
import logger.client  # noqa: F401

gc.collect()
gc.freeze()  # or the first collection of every child copies all of this
