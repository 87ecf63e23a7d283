# For people on a fresh machine. Everything else is cargo's and rhumb's own command line.

# rustup puts cargo here and tells only new shells.
export PATH := $(HOME)/.cargo/bin:$(PATH)

.DEFAULT_GOAL := help
.PHONY: help up test clients prepare

help: ## Show what can be made
	@sed -n 's/^\([a-z]*\):.*## \(.*\)/  make \1\t\2/p' $(MAKEFILE_LIST)

up: prepare ## Build Rhumb and start a sandbox of three regions; Ctrl-C stops it
	cargo build --release --package rhumb
	target/release/rhumb up

test: prepare ## Run all tests
	@if command -v cargo-nextest >/dev/null; then \
		echo cargo nextest run --workspace; cargo nextest run --workspace; \
	else \
		echo cargo test --workspace; cargo test --workspace; \
	fi

clients: prepare ## Run the official OpenAI SDKs, curl and h2load against sandboxes
	tests/clients/run

prepare: ## Install what the build needs (Debian, Ubuntu)
	@scripts/prepare
