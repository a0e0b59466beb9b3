#include "rootfs-tools/image/spool.h"

#include "vmm/base/files.h"
#include "vmm/base/try.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdlib>

namespace mayfly::image {
namespace {

/// Where a file begins: holes of the next one must not share a block with data of the one before.
constexpr std::uint64_t kSpoolAlignment = 4096;

}  // namespace

Result<OwnedFd> make_nameless_file(const std::string& directory) {
  OwnedFd file{::open(directory.c_str(), O_TMPFILE | O_RDWR | O_CLOEXEC, 0600)};
  if (file) return file;
  // Not every file system has them (EOPNOTSUPP, and of old kernels EISDIR).
  if (errno != EOPNOTSUPP && errno != EISDIR)
    return fail_errno(ErrorKind::System, "no temporary file can be made in {}", directory);
  std::string name = directory + "/.mayfly-template-XXXXXX";
  file = OwnedFd{::mkostemp(name.data(), O_CLOEXEC)};
  if (!file) return fail_errno(ErrorKind::System, "no temporary file can be made in {}", directory);
  (void)::unlink(name.c_str());
  return file;
}

Result<Spool> Spool::create(const std::string& directory) {
  auto file = TRY(make_nameless_file(directory));
  return Spool{std::move(file)};
}

FileData Spool::reserve(std::uint64_t size) noexcept {
  const FileData place{.offset = end_, .size = size};
  end_ += (size + kSpoolAlignment - 1) / kSpoolAlignment * kSpoolAlignment;
  return place;
}

Status Spool::write(const FileData& file, std::uint64_t offset, std::span<const std::byte> bytes) const {
  ensure(offset <= file.size && bytes.size() <= file.size - offset, "a file's data is written within its place");
  if (!write_all_at(file_.get(), bytes, file.offset + offset))
    return fail_errno(ErrorKind::System, "the temporary file for the data of files cannot be written");
  return {};
}

Status Spool::read(const FileData& file, std::uint64_t offset, std::span<std::byte> bytes) const {
  ensure(offset <= file.size && bytes.size() <= file.size - offset, "a file's data is read within its place");
  errno = 0;
  const std::size_t count = read_all_at(file_.get(), bytes, file.offset + offset);
  if (count < bytes.size() && errno != 0)
    return fail_errno(ErrorKind::System, "the temporary file for the data of files cannot be read");
  std::ranges::fill(bytes.subspan(count), std::byte{0});  // a hole at the file's end
  return {};
}

std::uint64_t Spool::next_data(const FileData& file, std::uint64_t offset) const noexcept {
  const off_t data = ::lseek(file_.get(), static_cast<off_t>(file.offset + offset), SEEK_DATA);
  if (data < 0) return errno == ENXIO ? file.size : offset;  // a file system without holes has data everywhere
  return std::min(file.size, static_cast<std::uint64_t>(data) - file.offset);
}

}  // namespace mayfly::image
