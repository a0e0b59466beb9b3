#include "rootfs-tools/template/verify.h"

#include "rootfs-tools/clones/template_file.h"
#include "rootfs-tools/image/digest.h"
#include "rootfs-tools/template/file_digest.h"
#include "vmm/base/files.h"
#include "vmm/base/owned_fd.h"
#include "vmm/base/printable.h"
#include "vmm/base/try.h"

#include <fcntl.h>

#include <algorithm>
#include <numeric>

#include <fmt/format.h>

namespace mayfly::image {
namespace {

constexpr std::string_view kOwnDigest = ",\"digest\":\"";
constexpr std::string_view kAfterDigest = "\"}\n";
constexpr const char* kRemedy = "copy it again from where it was built, or build the template again";

/// Before its fields are believed.
Status check_manifest(const std::string& path) {
  const auto text = TRY(clones::read_manifest(path));
  const std::size_t end = text.rfind(kOwnDigest);
  std::string_view expected;
  if (end != std::string::npos && text.ends_with(kAfterDigest))
    expected = std::string_view{text}.substr(end + kOwnDigest.size());
  if (!expected.empty()) expected.remove_suffix(kAfterDigest.size());
  if (!is_digest(expected))
    return fail(ErrorKind::InvalidArgument,
                "{} has no digest of its own at its end, as templates of this Mayfly have; {}", path, kRemedy);
  const std::string found = digest_of(std::string_view{text}.substr(0, end));
  if (expected == found) return {};
  return fail(ErrorKind::InvalidArgument, "{} has changed: it says that its digest is {}, and it is {}; {}", path,
              expected, found, kRemedy);
}

Status check_file(const std::string& path, const clones::TemplateFile& file,
                  const std::function<void(std::uint64_t)>& on_bytes) {
  if (file.digest.empty())
    return fail(ErrorKind::InvalidArgument,
                "{} has no digest in {}: an older Mayfly has built the template; build it again", path,
                clones::kTemplateFile);
  const OwnedFd opened{::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK)};
  if (!opened) return fail_errno(ErrorKind::System, "{} cannot be opened", path);
  const FileKind kind = file.digest.starts_with(kSparseDigest) ? FileKind::Sparse : FileKind::Plain;
  const auto found = TRY(digest_of_file(opened.get(), file.size, kind, path, on_bytes));
  if (found == file.digest) return {};
  return fail(ErrorKind::InvalidArgument, "{} has changed: its digest is {}, and {} says {}; {}", path, found,
              clones::kTemplateFile, printable(file.digest, kLongestShownName), kRemedy);
}

}  // namespace

std::string with_own_digest(std::string_view json) {
  const std::string_view begin = json.substr(0, json.rfind('}'));
  return fmt::format("{}{}{}{}", begin, kOwnDigest, digest_of(begin), kAfterDigest);
}

Result<Verified> verify_template(const VerifyOrder& order) {
  TRY(check_manifest(order.directory + '/' + std::string{clones::kTemplateFile}));
  const auto read = TRY(clones::read_template(order.directory));
  const std::uint64_t total =
      std::accumulate(read.files.begin(), read.files.end(), std::uint64_t{0},
                      [](std::uint64_t sum, const clones::TemplateFile& file) { return sum + file.size; });
  std::uint64_t done = 0;
  for (const clones::TemplateFile& file : read.files)
    TRY(check_file(read.path(file.name), file, [&](std::uint64_t bytes) {
      done += bytes;
      if (order.on_progress) order.on_progress("Reading " + file.name, done, total);
    }));
  return Verified{.directory = read.directory, .files = read.files.size()};
}

}  // namespace mayfly::image
