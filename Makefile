# demo and test are all a newcomer needs: each sets up what is missing, once, and is quick after that.
SHELL := /bin/sh
VENV := .venv
RUN := $(VENV)/bin/python -m baichuan_audio.cli
# Free text-to-speech engines for the synthetic corpus; the tests that need them are skipped without.
SPEECH_ENGINES := espeak-ng flite festival festvox-us-slt-hts festvox-kallpc16k
# The page of `baichuan-audio serve` is tested in it; those tests are skipped without.
BROWSER := chromium

.PHONY: help setup demo talk test check nano clean
help:
	@echo "make demo   answer the questions in examples/ in speech, with the model in models/nano"
	@echo "make talk   serve that model: a page to talk to it, and an OpenAI-compatible API"
	@echo "make test   run the tests"
	@echo "make check  formatting, lint, types, tests"
	@echo "make nano   train models/nano from nothing (hours on two CPU cores)"
	@echo "make setup  only set up $(VENV) for all of the above"

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
	@$(VENV)/bin/python -m pytest $(ARGS)

check: $(VENV)/.stamp-dev
	@$(VENV)/bin/ruff format --check src tests recipes
	@$(VENV)/bin/ruff check src tests recipes
	@$(VENV)/bin/mypy
	@$(MAKE) --no-print-directory test

nano: $(VENV)/.stamp-engines
	@$(VENV)/bin/python recipes/nano/run.py $(ARGS)

clean:
	rm -rf $(VENV) examples/out build dist
