# Programs of this machine for guests. To be sourced.

# The files of the libraries that a program is linked to: libraries_of FILE
libraries_of() { ldd "$1" | grep -oE '(/[^ ]+) \(0x' | sed 's/ (0x//'; }

# A program and the libraries that it is linked to, as options of build-rootfs and build-initrd.
with_libraries() { # PROGRAM...
  local program PATH=$PATH:/usr/sbin:/sbin
  for program in "$@"; do
    printf -- '--add\n%s:/usr/bin/%s\n' "$(readlink -f "$(command -v "$program")")" "$program"
    libraries_of "$(command -v "$program")"
  done | awk '/^--add$/ { print; getline; print; next } !seen[$0]++ { print "--add"; print $0 ":" $0 }'
}
