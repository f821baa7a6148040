#!/usr/bin/env bash
# Puts the clips of Debian's opencv-doc that datasets/opencv-doc.csv lists into a folder: infra/opencv-doc.sh [FOLDER]
# They are taken from the installed package, else out of its archive (96 MB), which apt downloads; nothing is installed.
set -euo pipefail
folder=${1:-.cache/opencv-doc}
members=(examples/data/vtest.avi examples/data/tree.avi opencv4/html/box.mp4.gz opencv4/html/cup.mp4.gz)
from=/usr/share/doc/opencv-doc
names=("${members[@]##*/}")
if (cd "$folder" && ls "${names[@]%.gz}") >/dev/null 2>&1; then exit 0; fi
mkdir -p "$folder"
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
if ! (cd "$from" && ls "${members[@]}") >/dev/null 2>&1; then
  (cd "$scratch" && apt-get download -qq opencv-doc)
  dpkg-deb --fsys-tarfile "$scratch"/opencv-doc_*.deb | tar -x -C "$scratch" "${members[@]/#/.$from/}"
  from=$scratch$from
fi
for member in "${members[@]}"; do
  name=$(basename "$member" .gz)
  if [[ $member == *.gz ]]; then gunzip -c "$from/$member" >"$scratch/$name"; else cp "$from/$member" "$scratch/$name"; fi
  mv "$scratch/$name" "$folder/$name"
done
