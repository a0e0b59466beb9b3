# Programs of this machine for a guest's root file system. To be sourced.

# A program of this machine and the libraries that it is linked to, as options of build-rootfs.
with_libraries() { # PROGRAM...
  local program
  for program in "$@"; do
    printf -- '--add\n%s:/usr/bin/%s\n' "$(readlink -f "$(command -v "$program")")" "$program"
    ldd "$(command -v "$program")" | grep -oE '(/[^ ]+) \(0x' | sed 's/ (0x//'
  done | awk '/^--add$/ { print; getline; print; next } !seen[$0]++ { print "--add"; print $0 ":" $0 }'
}
