# shellcheck shell=bash
# Sourced by each labeler's setup.sh, which sets: here (its folder), module (what must be importable), package (its name,
# wherever it comes from), repository, commit, python_min and python_max (minor versions of Python 3, both included).

usage="usage: setup.sh FOLDER   (environment variables: PYTHON, an interpreter; REPOSITORY and COMMIT, another source)"

die() {
  echo "$(basename "$here")/setup.sh: $*" >&2
  exit 1
}

# Make the environment in $1 and print its interpreter; what was made before from the same source and pins is left alone.
make_labeler() {
  local folder requirements="$here/requirements.txt"
  folder="$(folder_of "$@")" || exit 1
  [[ "$commit" =~ ^[0-9a-f]{40}$ ]] || die "COMMIT=$commit is no commit: give all its 40 digits"
  if [[ -f "$folder/labeler-source.txt" && "$(<"$folder/labeler-source.txt")" == "$package@$commit" ]] &&
    cmp --silent "$requirements" "$folder/requirements.txt"; then
    echo "$folder/bin/python"
    return
  fi
  rm -f "$folder/labeler-source.txt"
  make_environment "$folder"
  "$folder/bin/python" -m pip install --disable-pip-version-check --no-input --requirement "$requirements" >&2 ||
    die "packages could not be installed (above: which). Without network they must lie in PIP_FIND_LINKS or PIP_INDEX_URL."
  fetch_source "$folder"
  "$folder/bin/python" -c "import numpy, torch, safetensors, $module" >&2 ||
    die "$module cannot be imported in $folder (above: why)"
  cp "$requirements" "$folder/requirements.txt"
  # Last: it says that all is done, and labels name it as their version: no mirror's path, nor what opens it.
  echo "$package@$commit" >"$folder/labeler-source.txt"
  echo "$folder/bin/python"
}

# The folder of the command line, absolute.
folder_of() {
  [[ $# -eq 1 && -n "$1" && "$1" != -* ]] || die "$usage"
  if [[ -e "$1" && ! -f "$1/pyvenv.cfg" ]] && ! { [[ -d "$1" ]] && [[ -z "$(ls -A "$1")" ]]; }; then
    die "$1 exists and is no virtual environment; give another folder"
  fi
  mkdir -p "$1" && cd "$1" >/dev/null && pwd
}

make_environment() {
  local python="${PYTHON:-python3}" minor
  command -v "$python" >/dev/null || die "no $python; install it, or set PYTHON to another interpreter"
  minor="$("$python" -c 'import sys; print(sys.version_info[1] if sys.version_info[0] == 3 else 0)')"
  if ((minor < python_min || minor > python_max)); then
    die "$python is Python 3.$minor; the pinned packages need 3.$python_min to 3.$python_max: set PYTHON"
  fi
  [[ -x "$1/bin/python" ]] || "$python" -m venv "$1" >&2 || die "$python cannot make an environment; install its venv module"
}

# The network's code beside the environment in $1, and on its path: none of the packages is on a registry.
fetch_source() {
  local source="$1/source" site
  if [[ ! -f "$source/.commit" || "$(<"$source/.commit")" != "$package@$commit" ]]; then
    command -v git >/dev/null || die "no git, which fetches $repository"
    rm -rf "$source"
    git init --quiet "$source"
    git -C "$source" fetch --quiet --depth 1 "$repository" "$commit" ||
      die "commit $commit of $repository could not be fetched. Without network set REPOSITORY to a clone's path."
    git -C "$source" checkout --quiet FETCH_HEAD
    echo "$package@$commit" >"$source/.commit"
  fi
  site="$("$1/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')"
  echo "$source" >"$site/labeler-source.pth"
}
