#!/usr/bin/env bash
# MoGe-2 (MIT).
# An environment of its own for more4d's worker: infra/labelers/moge/setup.sh FOLDER; docs/labeling.md says the rest.
set -euo pipefail
here="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
module=moge.model.v2
package=microsoft/MoGe
repository="${REPOSITORY:-https://github.com/$package}"
commit="${COMMIT:-925b8ed835a7a9cdb7578ba15c658a0afc969030}"
python_min=10 python_max=12
# shellcheck source=infra/labelers/environment.sh
source "$here/../environment.sh"
make_labeler "$@"
