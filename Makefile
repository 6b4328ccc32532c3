# SPDX-License-Identifier: BSD-2-Clause
# The commands of a new user; everything else is `.venv/bin/bothworlds --help`.
SHELL := /bin/bash
.DEFAULT_GOAL := help
.NOTPARALLEL:

# Seconds of a campaign, campaigns in each way against a planted bug, and more options for the commands.
TIME ?= 60
SEEDS ?= 3
OPTIONS ?=
BIN := .venv/bin
# A process of tests for each core; every one boots machines of its own.
PARALLEL := -n auto --maxprocesses 4 --dist worksteal

.PHONY: help setup fuzz test test-backports lint planted bench clean

help:
	@echo "make setup    install what is missing, and a virtual environment in .venv"
	@echo "make fuzz     set up, then fuzz seL4's invocations for TIME=$(TIME) seconds"
	@echo "make test     set up, then all checks and tests"
	@echo "make test-backports   the tests with real boots on the QEMU of Debian's backports, which is not installed"
	@echo "make planted  set up, then campaigns against planted bugs, SEEDS=$(SEEDS) times in three ways; it resumes"
	@echo "make bench    set up, then measure speeds"
	@echo "make clean    remove .venv and everything that was built"

setup:
	@harness/setup.sh

# Exit code 1 of a campaign means "findings": the summary has said so, and make has nothing to add.
fuzz: setup
	@$(BIN)/bothworlds fuzz invocations --time $(TIME) $(OPTIONS) || [ $$? -eq 1 ]

lint: setup
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

test: lint
	$(BIN)/pytest $(PARALLEL)

test-backports: setup
	@harness/fetch_qemu.sh .qemu-backports
	BOTHWORLDS_QEMU=.qemu-backports/root $(BIN)/pytest $(PARALLEL) tests/system

planted: setup
	@$(BIN)/bothworlds planted --preserving --time $(TIME) $(OPTIONS)
	@$(BIN)/bothworlds planted --compare --seeds $(SEEDS) --time $(TIME) $(OPTIONS)

bench: setup
	@$(BIN)/bothworlds bench $(OPTIONS)

clean:
	@harness/setup.sh --clean
