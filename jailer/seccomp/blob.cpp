#include "jailer/seccomp/blob.h"

#include <algorithm>
#include <cstring>
#include <type_traits>

namespace mayfly::seccomp {
namespace {

constexpr const char* kRemedy = "make it with mayfly-seccompile of this version";

/// `T` at `offset` of bytes that hold it whole.
template <typename T>
T load(std::span<const std::byte> bytes, std::size_t offset) {
  static_assert(std::is_trivially_copyable_v<T>);
  T value;
  std::memcpy(&value, bytes.data() + offset, sizeof value);
  return value;
}

std::string_view thread_of(const BlobEntry& entry) {
  return {entry.thread.data(), ::strnlen(entry.thread.data(), entry.thread.size())};
}

Result<std::span<const sock_filter>> program_of(std::span<const std::byte> blob, const BlobEntry& entry,
                                                std::size_t kind) {
  if (entry.length == 0 || entry.length > BPF_MAXINSNS)
    return fail(ErrorKind::InvalidArgument, "the filter of thread {} has {} instructions, which must be 1 to {}; {}",
                kThreadNames[kind], entry.length, BPF_MAXINSNS, kRemedy);
  if (entry.offset % alignof(std::uint64_t) != 0 || entry.offset > blob.size() ||
      blob.size() - entry.offset < entry.length * sizeof(sock_filter))
    return fail(ErrorKind::InvalidArgument, "the filter of thread {} goes beyond the end at {} bytes; {}",
                kThreadNames[kind], blob.size(), kRemedy);
  return std::span{reinterpret_cast<const sock_filter*>(blob.data() + entry.offset), entry.length};
}

}  // namespace

Result<FilterPrograms> find_programs(std::span<const std::byte> blob) {
  if (blob.size() < sizeof(BlobHeader) || load<BlobHeader>(blob, 0).magic != kBlobMagic)
    return fail(ErrorKind::InvalidArgument, "these are no compiled filters; {}", kRemedy);
  const auto header = load<BlobHeader>(blob, 0);
  if (header.version != kBlobVersion)
    return fail(ErrorKind::InvalidArgument, "the filters have format {}, and this monitor reads {}; {}", header.version,
                kBlobVersion, kRemedy);
  if (header.count > kMostFilters || blob.size() < sizeof header + header.count * sizeof(BlobEntry))
    return fail(ErrorKind::InvalidArgument, "the table of {} filters goes beyond the end at {} bytes; {}", header.count,
                blob.size(), kRemedy);
  FilterPrograms found;
  for (std::uint32_t i = 0; i < header.count; ++i) {
    const auto entry = load<BlobEntry>(blob, sizeof header + i * sizeof(BlobEntry));
    const auto name = std::ranges::find(kThreadNames, thread_of(entry));
    if (name == kThreadNames.end()) continue;  // a thread that this monitor does not have
    const auto kind = static_cast<std::size_t>(name - kThreadNames.begin());
    if (!found.of_kind[kind].empty())
      return fail(ErrorKind::InvalidArgument, "thread {} has two filters; {}", *name, kRemedy);
    auto program = program_of(blob, entry, kind);
    if (!program) return propagate(program);
    found.of_kind[kind] = *program;
  }
  for (std::size_t kind = 0; kind < kThreadNames.size(); ++kind)
    if (found.of_kind[kind].empty())
      return fail(ErrorKind::InvalidArgument,
                  "there is no filter for thread {}; add a section [{}] to the text, as filters.txt of this version "
                  "has it",
                  kThreadNames[kind], kThreadNames[kind]);
  return found;
}

std::vector<std::byte> make_blob(std::span<const NamedProgram> programs) {
  ensure(programs.size() <= kMostFilters, "a blob of filters has room for its threads");
  const BlobHeader header{
      .magic = kBlobMagic, .version = kBlobVersion, .count = static_cast<std::uint32_t>(programs.size())};
  std::vector<std::byte> blob;
  const auto append = [&blob](const void* what, std::size_t length) {
    const auto* const bytes = static_cast<const std::byte*>(what);
    blob.insert(blob.end(), bytes, bytes + length);
  };
  append(&header, sizeof header);
  std::size_t offset = sizeof header + programs.size() * sizeof(BlobEntry);
  for (const NamedProgram& each : programs) {
    BlobEntry entry{.thread = {},
                    .offset = static_cast<std::uint32_t>(offset),
                    .length = static_cast<std::uint32_t>(each.program.size())};
    ensure(each.thread.size() < entry.thread.size(), "a thread's name fits into a blob");
    std::ranges::copy(each.thread, entry.thread.begin());
    append(&entry, sizeof entry);
    offset += each.program.size_bytes();
  }
  for (const NamedProgram& each : programs) append(each.program.data(), each.program.size_bytes());
  return blob;
}

}  // namespace mayfly::seccomp
