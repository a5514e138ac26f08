# Each target sets up .venv by itself; a second run installs nothing.
.PHONY: demo test test-all check docs install

demo: install
	.venv/bin/python scripts/demo.py

test: install
	scripts/test

test-all: install
	scripts/test --slow
	scripts/test-runtime 3.10 3.12 3.13 || [ $$? = 69 ] # 69: one is not installed, and it says so

check: install
	scripts/check

docs: install
	scripts/docs

install:
	@scripts/install
