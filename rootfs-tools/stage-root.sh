# shellcheck shell=bash
# Sourced by build-initrd and build-rootfs, after cache.sh: the options that both take, and the tree that both pack:
# busybox with a link for each applet, Mayfly's init as /init and /sbin/init, the few files of /etc that programs look
# for, what the user adds, and kernel modules with the list in which init loads them.

init_binary=''
additions=()       # SOURCE:DESTINATION
module_requests=() # MODULE_TREE NAME pairs, flat

# take_staging_option ARGUMENT...: sets `taken` to the number of arguments that belong to a staging option; 0: none of
# ours.
take_staging_option() {
  local tree
  taken=0
  case "$1" in
    --init)
      need_value "$1" $#
      init_binary=$2 taken=2 ;;
    --add)
      need_value "$1" $#
      [[ $2 == ?*:/* ]] || die "--add '$2' is not SOURCE:DESTINATION with an absolute destination"
      additions+=("$2") taken=2 ;;
    --modules)
      need_value "$1" $#
      tree=$2 taken=2
      [ -f "$tree/modules.dep" ] || die "--modules $tree: there is no modules.dep; name a lib/modules/VERSION" \
        "directory after depmod (rootfs-tools/fetch-stock-kernel --modules prints one)"
      shift 2
      while [ $# -gt 0 ] && [[ $1 != --* ]]; do
        module_requests+=("$tree" "$1")
        taken=$((taken + 1))
        shift
      done
      [ "$taken" -gt 2 ] || die "--modules $tree: name at least one module after the tree" ;;
  esac
}

need_staging_tools() {
  need_tools busybox:busybox-static find:findutils flock:util-linux
  # A dynamic busybox would need its libraries in the guest.
  ! grep -aq '/ld-linux' "$(command -v busybox)" || die "$(command -v busybox) is not static; install the Debian" \
    "package busybox-static (.ci/install-packages does)"
  [ -n "$init_binary" ] || need_tools g++:g++
  [ ${#module_requests[@]} -eq 0 ] || need_tools modprobe:kmod xz:xz-utils zstd:zstd
}

compile_init() {
  local flags
  mapfile -t flags < "$here/init/init.flags"
  g++ "${flags[@]}" -I "$here/.." -static -s -Wl,--gc-sections -o "$1/init" "$here"/init/*.cpp ||
    die "cannot compile $here/init/*.cpp; a C++23 compiler (g++ 12 or later) and static C libraries (libc6-dev) are needed"
}

stage_init() {
  local key compiled
  if [ -z "$init_binary" ]; then
    key=$({ cat "$here"/init/*.{cpp,h,flags}; declare -f compile_init; g++ --version | head -n 1; } | hash_of_input)
    cached compiled "init/$key" compile_init
    init_binary=$compiled/init
  fi
  [ -f "$init_binary" ] || die "--init $init_binary: there is no such file; build the CMake target mayfly-guest-init"
  install -m 755 "$init_binary" "$1/sbin/init"
  ln -s sbin/init "$1/init"
}

stage_busybox() {
  local applet
  install -m 755 "$(command -v busybox)" "$1/bin/busybox"
  while read -r applet; do
    case "$applet" in
      bin/busybox | init | sbin/init | linuxrc) ;;  # the first is the binary, the others are our init's place
      *) [ -d "$1/${applet%/*}" ] || mkdir -p "$1/${applet%/*}"; ln -s /bin/busybox "$1/$applet" ;;
    esac
  done < <(busybox --list-full)
}

stage_etc() {
  echo 'root::0:0:root:/root:/bin/sh
nobody:x:65534:65534:nobody:/:/bin/false' > "$1/etc/passwd"
  echo 'root:x:0:
tty:x:5:
nogroup:x:65534:' > "$1/etc/group"
  echo '127.0.0.1 localhost
::1 localhost' > "$1/etc/hosts"
  echo 'passwd: files
group: files
hosts: files dns' > "$1/etc/nsswitch.conf"
  echo mayfly > "$1/etc/hostname"
  echo "export PS1='mayfly:\\w\\\$ '" > "$1/etc/profile"
}

# uncompressed FILE: the module itself, which the kernel may be unable to unpack.
uncompressed() {
  case "$1" in
    *.xz) xz -dc -- "$1" ;;
    *.zst) zstd -qdc -- "$1" ;;
    *) cat -- "$1" ;;
  esac
}

# stage_module ROOT TREE NAME: the module after all that it depends on. modprobe knows the order, and is kept from this
# machine's own preferences by -C.
stage_module() {
  local root=$1 tree name=$3 base version lines verb file parameters target
  tree=$(cd "$2" && pwd)
  version=${tree##*/}
  base=${tree%/lib/modules/*}
  [ "$base" != "$tree" ] || die "--modules $2: the tree must be a directory lib/modules/VERSION"
  base=${base%/usr}  # modprobe adds that where its Debian has modules there
  lines=$(modprobe -C /dev/null -d "${base:-/}" -S "$version" --show-depends "$name" 2>&1) ||
    die "--modules $2: no module $name there ($lines)"
  mkdir -p "$root/lib/modules/$version"
  while read -r verb file parameters; do
    [ "$verb" = insmod ] || continue  # "builtin NAME": the kernel has it
    target=/lib/modules/$version/$(basename "$file" | sed 's/\.ko.*/.ko/')
    [ ! -e "$root$target" ] || continue
    uncompressed "$file" > "$root$target"
    chmod 644 "$root$target"
    echo "$target${parameters:+ $parameters}" >> "$root/lib/modules-to-load"
  done <<< "$lines"
}

stage_additions() {
  local addition from to
  for addition in "${additions[@]}"; do
    from=${addition%:*} to=$1${addition##*:}
    [ -e "$from" ] || die "--add $addition: there is no file $from"
    if [ -d "$from" ]; then
      mkdir -p "$to"
      cp -RPp --no-preserve=ownership -- "$from/." "$to"
    else
      [[ $to != */ ]] || to=$to$(basename "$from")
      mkdir -p "$(dirname "$to")"
      rm -f -- "$to"  # it may be a link to busybox, whose target must not be written
      cp -p --no-preserve=ownership -- "$from" "$to"
    fi
  done
}

# stage_root ROOT: everything, with one time stamp for all of it, so that equal inputs give equal images.
stage_root() {
  local root=$1 index
  umask 022
  mkdir -p "$root"/{bin,sbin,usr/bin,usr/sbin,usr/lib,lib/modules,etc,dev,proc,sys,run,tmp,root,mnt,home,var/log,var/tmp}
  chmod 1777 "$root/tmp" "$root/var/tmp"
  chmod 700 "$root/root"
  stage_busybox "$root"
  stage_init "$root"
  stage_etc "$root"
  for ((index = 0; index < ${#module_requests[@]}; index += 2)); do
    stage_module "$root" "${module_requests[index]}" "${module_requests[index + 1]}"
  done
  stage_additions "$root"
  find "$root" -exec touch -h -d @0 {} +
}
