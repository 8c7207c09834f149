# What can be done with a checkout of lakebed. Each target is a script in scripts/, which says what it needs.

.DEFAULT_GOAL := help
.PHONY: help setup build test test-distributed lint soak killed nights fuzz mutants demo bench bench-remote bench-workspace cold growth parts

help: ## list the targets
	@sed -n 's/^\([a-z-]*\):.*## /  make \1\t/p' Makefile | expand -t 25

setup: ## check what building needs, and install what is missing where that is possible
	@scripts/setup

build: ## build the release binary and print where it is
	@scripts/build

test: ## everything that must hold: format, lints, tests, documentation, licences, build
	@scripts/test

lint: ## the part of `test` that runs no tests
	@scripts/lint

test-distributed: ## a repository on three nodes of Garage, one of which is stopped and killed (builds Garage once: some minutes)
	@scripts/distributed

soak: ## the long tests: every loss of power, and processes killed at random (SEED=n)
	@SEED='$(SEED)' scripts/soak

killed: ## a first backup of 70,000 files, killed at half and run again (FILES=n, KILOBYTES=n, WORK=folder)
	@FILES='$(or $(FILES),70000)' KILOBYTES='$(or $(KILOBYTES),100)' WORK='$(WORK)' scripts/killed

nights: ## ten nights of backup, forget and prune, each compared (SOURCE=folder, COMMAND='what changes it', NIGHTS, KEEP)
	@NIGHTS='$(or $(NIGHTS),10)' KEEP='$(or $(KEEP),4)' WORK='$(WORK)' scripts/nights '$(SOURCE)' $(COMMAND)

fuzz: ## fuzz each decoder, and sequences of commands, for ten minutes (TARGETS='a b', FOR=seconds, KEEP=1)
	@TARGETS='$(TARGETS)' FOR='$(FOR)' KEEP='$(KEEP)' scripts/fuzz

mutants: ## change the code in small ways and see whether a test notices (PART=core or engine, SHARD=k/n)
	@PART='$(PART)' SHARD='$(SHARD)' scripts/mutants

demo: ## two nights of backups of real files, a restore, a comparison (SOURCE=folder, KEEP=1)
	@SOURCE='$(SOURCE)' KEEP='$(KEEP)' scripts/demo

bench: ## lakebed beside the peers on PATH and plain floors (WORKLOAD=notebooks or files, or SOURCE and CHANGE; SCALE, ROUNDS, DAYS, UNDER='taskset -c 0', WORK)
	@WORKLOAD='$(WORKLOAD)' SOURCE='$(SOURCE)' CHANGE='$(CHANGE)' SCALE='$(SCALE)' ROUNDS='$(ROUNDS)' DAYS='$(DAYS)' UNDER='$(UNDER)' WORK='$(WORK)' scripts/bench compare

bench-remote: ## the same, but for the floors, on a node of Garage behind a slow network (WORKLOAD, SCALE, ROUNDS, LATENCY=50 ms, BANDWIDTH=1000 Mbit/s, WORK)
	@WORKLOAD='$(WORKLOAD)' SCALE='$(SCALE)' ROUNDS='$(ROUNDS)' DAYS='$(DAYS)' LATENCY='$(LATENCY)' BANDWIDTH='$(BANDWIDTH)' WORK='$(WORK)' scripts/bench remote

cold: ## a machine that has never seen a repository on a node of Garage (CHUNKS, SNAPSHOTS, LATENCY, BANDWIDTH, WORK)
	@CHUNKS='$(CHUNKS)' SNAPSHOTS='$(SNAPSHOTS)' LATENCY='$(or $(LATENCY),0)' BANDWIDTH='$(or $(BANDWIDTH),10000)' WORK='$(WORK)' scripts/bench cold

growth: ## a million files, many snapshots, many chunks, a sparse file (FILES, SNAPSHOTS, CHUNKS, WORK)
	@FILES='$(FILES)' SNAPSHOTS='$(SNAPSHOTS)' CHUNKS='$(CHUNKS)' WORK='$(WORK)' scripts/bench growth

bench-workspace: ## nights of a workspace beside the floor of its limits (NOTEBOOKS=70000, FOLDERS, LATENCY=50 ms, SCALE=10 times the limits, 0: none; FAILURES=share, WORK)
	@NOTEBOOKS='$(NOTEBOOKS)' FOLDERS='$(FOLDERS)' LATENCY='$(LATENCY)' SCALE='$(SCALE)' FAILURES='$(FAILURES)' WORK='$(WORK)' scripts/bench workspace

parts: ## the parts of a backup alone: cutting, hashing, compressing, trees
	@scripts/bench parts
