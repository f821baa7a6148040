#!/usr/bin/env bash
# DELTA (Snap non-commercial: research alone).
# An environment of its own for more4d's worker: infra/labelers/delta/setup.sh FOLDER; docs/labeling.md says the rest.
set -euo pipefail
here="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
module=densetrack3d.models.predictor.dense_predictor
package=snap-research/DELTA_densetrack3d
repository="${REPOSITORY:-https://github.com/$package}"
commit="${COMMIT:-2627c342b0fa8e62ac4092bac179256417b88f05}"
python_min=10 python_max=12
# shellcheck source=infra/labelers/environment.sh
source "$here/../environment.sh"
make_labeler "$@"
