#include "vmm/cli/drive_tools.h"

#include "virtio/block/drive_layers.h"
#include "vmm/base/files.h"
#include "vmm/base/json_writer.h"
#include "vmm/base/printable.h"
#include "vmm/base/try.h"
#include "vmm/cli/exit_codes.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <csignal>
#include <utility>
#include <vector>

#include <fmt/format.h>

namespace mayfly {
namespace {

/// What is copied in one piece.
constexpr std::size_t kCopyAtOnce = 1 << 20;

struct OverlayFacts {
  std::string path;
  OverlayHeader header{};
  std::uint64_t present_bytes = 0;  ///< Of the drive: what the overlay has, zeros included.
  std::uint64_t disk_bytes = 0;     ///< That its file takes.
  bool is_flushed = false;          ///< It would have the same after a power cut.
};

Result<OverlayFacts> facts_of(const std::string& path) {
  auto image = TRY(DiskImage::open(DriveConfig{.drive_id = "info", .path_on_host = path, .is_read_only = true}));
  const auto boot = TRY(read_boot_id());
  const auto overlay = TRY(Overlay::open(image.fd(), {.who = path, .checks_below = false, .boot = boot}));
  struct stat status{};
  if (::fstat(image.fd(), &status) != 0) return fail_errno(ErrorKind::System, "{} cannot be looked at", path);
  const OverlayMap& map = overlay.map();
  return OverlayFacts{.path = path,
                      .header = overlay.header(),
                      .present_bytes = map.present_count() * map.layout().block_size,
                      .disk_bytes = static_cast<std::uint64_t>(status.st_blocks) * 512,
                      .is_flushed = map.is_durable()};
}

void write_json(JsonWriter& json, const OverlayFacts& facts) {
  const OverlayHeader& header = facts.header;
  json.begin_object();
  json.field("path", facts.path);
  json.field("id", hexadecimal_digits(header.id));
  json.field("version", header.version);
  json.field("drive_bytes", header.drive_size);
  json.field("block_bytes", header.block_size);
  json.field("present_bytes", facts.present_bytes);
  json.field("disk_bytes", facts.disk_bytes);
  json.field("is_flushed", facts.is_flushed);
  json.key("below");
  json.begin_object();
  json.field("modified_ns", header.below.modified_ns);
  if (header.below.id != OverlayId{}) json.field("overlay_id", hexadecimal_digits(header.below.id));
  json.end_object();
  json.end_object();
}

std::string describe(const OverlayFacts& facts) {
  const OverlayHeader& header = facts.header;
  const auto mib = [](std::uint64_t bytes) { return static_cast<double>(bytes) / (1 << 20); };
  return fmt::format("{}: overlay {} of a drive of {:.1f} MiB: it has {:.1f} MiB, its file takes {:.1f}; over {}{}\n",
                     facts.path, hexadecimal_digits(header.id), mib(header.drive_size), mib(facts.present_bytes),
                     mib(facts.disk_bytes),
                     header.below.id == OverlayId{} ? "a raw image" : "overlay " + hexadecimal_digits(header.below.id),
                     facts.is_flushed ? "" : "; not all of it is flushed");
}

/// Copies what is data of `length` bytes.
Status copy_data(int from, std::uint64_t place, int to, std::uint64_t offset, std::uint64_t length,
                 std::vector<std::byte>& buffer) {
  for (std::uint64_t done = 0; done < length;) {
    off_t data = ::lseek(from, static_cast<off_t>(place + done), SEEK_DATA);
    if (data < 0 && errno == ENXIO) return {};
    const bool has_no_holes = data < 0 && errno == EINVAL;  // a block device
    if (has_no_holes) data = static_cast<off_t>(place + done);
    if (data < 0) return fail_errno(ErrorKind::System, "a layer cannot be searched for data");
    done = std::max(done, static_cast<std::uint64_t>(data) - place);
    const off_t hole =
        has_no_holes ? static_cast<off_t>(place + length) : ::lseek(from, static_cast<off_t>(place + done), SEEK_HOLE);
    if (hole < 0) return fail_errno(ErrorKind::System, "a layer cannot be searched for holes");
    const std::uint64_t end = std::min(length, static_cast<std::uint64_t>(hole) - place);
    while (done < end) {
      const auto piece = std::span{buffer}.first(std::min<std::uint64_t>(buffer.size(), end - done));
      errno = 0;
      if (read_all_at(from, piece, place + done) < piece.size())
        return errno == 0 ? fail(ErrorKind::InvalidArgument, "a layer ends before the drive does")
                          : fail_errno(ErrorKind::System, "a layer cannot be read");
      if (!write_all_at(to, piece, offset + done)) return fail_errno(ErrorKind::System, "it cannot be written");
      done += piece.size();
    }
  }
  return {};
}

Status copy_drive(const DiskImage& image, const OwnedFd& output) {
  if (::ftruncate(output.get(), static_cast<off_t>(image.size_bytes())) != 0)
    return fail_errno(ErrorKind::System, "it cannot be made {} bytes long", image.size_bytes());
  std::vector<std::byte> buffer(kCopyAtOnce);
  const DriveLayers& layers = *image.layers();
  for (std::uint64_t at = 0; at < image.size_bytes();) {
    const DriveLayers::Run run = layers.run(at, image.size_bytes() - at);
    TRY(copy_data(image.layer(run.layer).fd(), run.place, output.get(), at, run.length, buffer));
    at += run.length;
  }
  if (::fsync(output.get()) != 0) return fail_errno(ErrorKind::System, "it cannot be put on stable storage");
  return {};
}

Status export_drive(std::span<const std::string> bases, const std::string& overlay, const std::string& path) {
  if (bases.empty()) return fail(ErrorKind::InvalidArgument, "an overlay has a raw image below it; name it by --base");
  const DriveConfig config{
      .drive_id = "export", .path_on_host = overlay, .base_paths = {bases.begin(), bases.end()}, .is_read_only = true};
  auto image = TRY(DiskImage::open(config));
  const OwnedFd output{::open(path.c_str(), O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC | O_NOCTTY, 0600)};
  if (!output && errno == EEXIST)
    return fail(ErrorKind::InvalidArgument, "--output {} is there already; delete it, or give another path", path);
  if (!output) return fail_errno(ErrorKind::System, "--output {} cannot be made", path);
  auto copied = copy_drive(image, output);
  if (copied) return {};
  (void)::unlink(path.c_str());
  return propagate(copied, "--output " + path);
}

}  // namespace

int run_drive_info(std::span<const std::string> overlays, bool as_json, std::FILE* out) {
  std::string text;
  JsonWriter json;
  json.begin_array();
  for (const std::string& path : overlays) {
    const auto facts = facts_of(path);
    if (!facts) return report(facts.error(), kExitError);
    text += describe(*facts);
    write_json(json, *facts);
  }
  json.end_array();
  return as_json ? print(std::move(json).take() + '\n', out) : print(printable_lines(text), out);
}

int run_drive_export(std::span<const std::string> bases, const std::string& overlay, const std::string& output) {
  std::signal(SIGXFSZ, SIG_IGN);  // a limit on file sizes is an error like a full disk
  if (auto exported = export_drive(bases, overlay, output); !exported) return report(exported.error(), kExitError);
  return 0;
}

}  // namespace mayfly
