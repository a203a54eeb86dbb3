# SPDX-License-Identifier: Apache-2.0
# Everything a person types. `make help` lists it.

BIN := .venv/bin

.PHONY: help
help: ## what there is to type
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "  make %-9s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

.PHONY: check
check: ## ruff, mypy --strict, the floors, unit tests; under 3 minutes
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/pytest --ignore=tests/e2e
