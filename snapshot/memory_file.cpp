#include "snapshot/memory_file.h"

#include "snapshot/file_pair.h"
#include "snapshot/memory_parts.h"

#include <fcntl.h>
#include <sys/stat.h>

namespace mayfly {

Status write_memory_file(const PageWriting& pages, const OwnedFd& file, const std::string& path,
                         const MemoryFileContent& content) {
  auto written = memory_parts::write_pages(pages, file, path, content.pages);
  if (!written) return propagate(written);
  const std::vector<MemoryStretch>& stretches = *written;
  return memory_parts::write_end(
      file.get(), path,
      memory_parts::make_footer(content.kind, content.id, content.base_id, pages.memory.size(), stretches), stretches);
}

Result<OwnedFd> open_for_reading(const std::string& path) {
  OwnedFd file{::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY)};
  if (!file) return fail_errno(ErrorKind::System, "memory file {} cannot be opened", path);
  struct stat status{};
  if (::fstat(file.get(), &status) != 0) return fail_errno(ErrorKind::System, "memory file {}", path);
  if (!S_ISREG(status.st_mode))
    return fail(ErrorKind::InvalidArgument, "memory file {} is not a regular file; give a snapshot's memory file",
                path);
  return file;
}

Result<OwnedFd> open_memory_file(const std::string& path, const SnapshotId& id, std::uint64_t memory_size) {
  std::optional<Error> first;
  // The new name is looked at only where NAME is not what is wanted: see file_pair.h.
  for (const std::string& name : {path, new_name(path)}) {
    auto file = open_for_reading(name);
    if (file) {
      auto footer = read_footer(file->get(), name, memory_size);
      if (footer && footer->id == id && footer->kind == MemoryFileKind::Full) return file;
      if (footer && footer->id == id)
        first =
            Error{ErrorKind::InvalidArgument,
                  fmt::format("memory file {} is a diff of snapshot {}; put that one's memory file before it, or merge "
                              "them (mayfly snapshot merge)",
                              name, format_snapshot_id(footer->base_id))};
      else if (footer && !first)
        first = Error{ErrorKind::InvalidArgument,
                      fmt::format("memory file {} belongs to snapshot {}, and the state file to snapshot {}; give the "
                                  "pair that was written together",
                                  name, format_snapshot_id(footer->id), format_snapshot_id(id))};
      else if (!footer && !first)
        first = std::move(footer.error());
    } else if (!first) {
      first = std::move(file.error());
    }
  }
  return std::unexpected{std::move(*first)};
}

}  // namespace mayfly
