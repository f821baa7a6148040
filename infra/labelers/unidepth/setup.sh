#!/usr/bin/env bash
# UniDepthV2 (CC BY-NC 4.0: no commercial use).
# An environment of its own for more4d's worker: infra/labelers/unidepth/setup.sh FOLDER; docs/labeling.md says the rest.
set -euo pipefail
here="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
module=unidepth.models
package=lpiccinelli-eth/UniDepth
repository="${REPOSITORY:-https://github.com/$package}"
commit="${COMMIT:-8d8cfe4c7ee15297099983607febf0d4f32eb3d6}"
python_min=10 python_max=12
# shellcheck source=infra/labelers/environment.sh
source "$here/../environment.sh"
make_labeler "$@"
