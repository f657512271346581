#!/bin/sh
# Checks the files in this folder, as far as that is possible without GitHub.
set -eu
cd "$(dirname "$0")/.."
bin="$PWD/.venv/bin"

# Without the tools that it would find on some machines and not on others.
"$bin/actionlint" -shellcheck= -pyflakes= .github/workflows/*.yml
check() {
    schema="$1"
    shift
    "$bin/check-jsonschema" --quiet --builtin-schema "$schema" "$@"
}
check vendor.github-workflows .github/workflows/*.yml
check custom.github-workflows-require-timeout .github/workflows/*.yml
check vendor.github-actions .github/actions/*/action.yml
check vendor.dependabot .github/dependabot.yml
check vendor.github-issue-forms .github/ISSUE_TEMPLATE/bug.yml .github/ISSUE_TEMPLATE/proposal.yml
check vendor.github-issue-config .github/ISSUE_TEMPLATE/config.yml
"$bin/pre-commit" validate-config
