# `make demo` and `make test` set up what they need, once, and are quick after that.
SHELL := /bin/sh
VENV := .venv
RUN := $(VENV)/bin/python -m baichuan_audio.cli
# Free text-to-speech engines for the synthetic corpus; without them their tests are skipped.
SPEECH_ENGINES := espeak-ng flite festival festvox-us-slt-hts festvox-kallpc16k
# For the tests of the server's page; without it they are skipped.
BROWSER := chromium
# Parallel test processes; JOBS=0 runs the tests in one process, e.g. to debug. A file stays in one process.
JOBS ?= $(shell n=$$(getconf _NPROCESSORS_ONLN 2>/dev/null || echo 2); [ $$n -le 4 ] && echo $$n || echo 4)
PYTEST := $(VENV)/bin/python -m pytest -n $(JOBS) --dist loadfile --no-loadscope-reorder

.PHONY: help setup demo talk test test-quick check nano clean
help:
	@echo "make demo        reply to the questions in examples/ in speech, with the model in models/nano"
	@echo "make talk        serve that model: a page to talk to it, and an OpenAI-compatible API"
	@echo "make test        run all tests; ARGS=tests/test_cli.py runs some, JOBS=0 runs them in one process"
	@echo "make test-quick  run the tests that are not marked slow, in less than a minute"
	@echo "make check       check formatting, lint and types, and run all tests"
	@echo "make nano        train nano from pretrained parts (many hours on two CPU cores; NANO=quick rehearses)"
	@echo "make setup       only set up $(VENV) for all of the above"

setup: $(VENV)/.stamp-dev

$(VENV)/.stamp-demo: pyproject.toml constraints.txt scripts/setup.sh
	@sh scripts/setup.sh plot
	@touch $@

$(VENV)/.stamp-server: pyproject.toml constraints.txt scripts/setup.sh
	@sh scripts/setup.sh plot,server
	@touch $@ $(VENV)/.stamp-demo

$(VENV)/.stamp-dev: pyproject.toml constraints.txt scripts/setup.sh
	@sh scripts/setup.sh dev
	@touch $@ $(VENV)/.stamp-demo $(VENV)/.stamp-server

$(VENV)/.stamp-engines: scripts/debian.sh $(VENV)/.stamp-dev
	@sh scripts/debian.sh $(SPEECH_ENGINES)
	@touch $@

demo: $(VENV)/.stamp-demo
	@$(RUN) demo --model $${BAICHUAN_AUDIO_MODEL:-models/nano}

talk: $(VENV)/.stamp-server
	@$(RUN) serve models/nano $(ARGS)

test: $(VENV)/.stamp-dev
	@sh scripts/debian.sh $(SPEECH_ENGINES) || echo "tests of the speech engines will be skipped"
	@sh scripts/debian.sh $(BROWSER) || echo "tests of the page will be skipped"
	@$(PYTEST) $(ARGS)

test-quick: $(VENV)/.stamp-dev
	@$(PYTEST) -q -m "not slow" $(ARGS)

check: $(VENV)/.stamp-dev
	@$(VENV)/bin/ruff format --check src tests recipes
	@$(VENV)/bin/ruff check src tests recipes
	@$(VENV)/bin/mypy
	@$(MAKE) --no-print-directory test

nano: $(VENV)/.stamp-engines
	@$(VENV)/bin/python recipes/nano/run.py $(ARGS)

clean:
	rm -rf $(VENV) examples/out build dist
