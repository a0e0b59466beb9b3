#include "rootfs-tools/template/make_layer.h"

#include "vmm/base/owned_fd.h"
#include "vmm/base/printable.h"
#include "vmm/base/run_program.h"
#include "vmm/base/try.h"

#include <fcntl.h>
#include <unistd.h>

#include <array>

namespace mayfly::image {
namespace {

/// Where it is on hosts whose users have no sbin in their PATH, too.
constexpr std::array kPrograms{"/usr/sbin/mke2fs", "/sbin/mke2fs", "/usr/bin/mke2fs"};

const char* program() {
  for (const char* each : kPrograms)
    if (::access(each, X_OK) == 0) return each;
  return nullptr;
}

}  // namespace

Status make_layer(const std::string& path, std::uint64_t bytes) {
  const char* const found = program();
  if (found == nullptr)
    return fail(ErrorKind::NotFound, "mke2fs is missing, which makes the layer for writes: install e2fsprogs");
  {
    const OwnedFd file{::open(path.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0644)};
    if (!file || ::ftruncate(file.get(), static_cast<off_t>(bytes)) != 0)
      return fail_errno(ErrorKind::System, "cannot make {} of {} bytes", path, bytes);
  }
  // No journal: a clone that ends goes with its overlay. Tables are zeroed now, which are holes, and not by each clone.
  const auto end = TRY(
      run_program({found, "-q", "-F", "-t", "ext4", "-m", "0", "-O", "^has_journal", "-Elazy_itable_init=0", path}));
  if (end.succeeded()) return {};
  return fail(ErrorKind::System, "mke2fs cannot make {}: {}", path, printable(end.said, 500));
}

}  // namespace mayfly::image
