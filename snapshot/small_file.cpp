#include "snapshot/small_file.h"

#include "vmm/base/files.h"
#include "vmm/base/owned_fd.h"

#include <fcntl.h>
#include <sys/stat.h>

#include <cerrno>

namespace mayfly {

Result<std::vector<std::byte>> read_small_file(const std::string& path, const SmallFileKind& kind) {
  const OwnedFd file{::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY)};
  if (!file) return fail_errno(ErrorKind::System, "{} {} cannot be opened", kind.field, path);
  struct stat status{};
  if (::fstat(file.get(), &status) != 0) return fail_errno(ErrorKind::System, "{} {}", kind.field, path);
  if (!S_ISREG(status.st_mode))
    return fail(ErrorKind::InvalidArgument, "{} {} is not a regular file; give a snapshot's {}", kind.field, path,
                kind.noun);
  if (status.st_size > static_cast<off_t>(kind.limit))
    return fail(ErrorKind::TooLarge, "{} {} has {} bytes, more than any {}; is it the memory file?", kind.field, path,
                status.st_size, kind.noun);
  std::vector<std::byte> bytes(static_cast<std::size_t>(status.st_size));
  const std::size_t count = read_all_at(file.get(), bytes, 0);
  if (count < bytes.size() && errno != 0)
    return fail_errno(ErrorKind::System, "{} {} cannot be read", kind.field, path);
  bytes.resize(count);
  return bytes;
}

}  // namespace mayfly
