#include "vmm/cli/drive_tools.h"

#include "snapshot/file_pair.h"
#include "virtio/block/drive_layers.h"
#include "vmm/base/files.h"
#include "vmm/base/json_writer.h"
#include "vmm/base/printable.h"
#include "vmm/base/try.h"
#include "vmm/cli/drive_copy.h"
#include "vmm/cli/exit_codes.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <csignal>
#include <tuple>
#include <utility>

#include <fmt/format.h>

namespace mayfly {
namespace {

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

Status export_drive(std::span<const std::string> bases, const std::string& overlay, const std::string& path) {
  if (bases.empty()) return fail(ErrorKind::InvalidArgument, "an overlay has a raw image below it; name it by --base");
  const DriveConfig config{
      .drive_id = "export", .path_on_host = overlay, .base_paths = {bases.begin(), bases.end()}, .is_read_only = true};
  auto image = TRY(DiskImage::open(config));
  struct stat status{};
  if (::lstat(path.c_str(), &status) == 0)
    return fail(ErrorKind::InvalidArgument, "--output {} is there already; delete it, or give another path", path);
  auto output = TRY(NewFile::create(path, "--output"));
  if (auto copied = copy_drive(image, output.fd().get()); !copied) return propagate(copied, "--output " + path);
  return output.publish_unless_there();
}

/// As the file has it that is replaced, so that who could open that one can open this one.
Status give_owner_and_mode(int file, int as, const std::string& who) {
  struct stat status{};
  if (::fstat(as, &status) != 0 || ::fchmod(file, status.st_mode & 07777) != 0)
    return fail_errno(ErrorKind::System, "{}: its mode cannot be given to the new one", who);
  if (::fchown(file, status.st_uid, status.st_gid) != 0)
    return fail_errno(ErrorKind::Permission, "{}: the new one cannot be given to user {} and group {}, as it is", who,
                      status.st_uid, status.st_gid);
  return {};
}

/// Whether another process has it open as a drive's, also one that only reads.
bool is_locked(int file) noexcept {
  struct flock whole{};
  whole.l_type = F_WRLCK;
  whole.l_whence = SEEK_SET;
  return ::fcntl(file, F_OFD_GETLK, &whole) == 0 && whole.l_type != F_UNLCK;
}

/// The layer below gets what the overlay has: a new file in its place, so that whoever reads it goes on with the old one.
Status commit_drive(std::span<const std::string> bases, const std::string& overlay) {
  if (bases.empty()) return fail(ErrorKind::InvalidArgument, "an overlay has a raw image below it; name it by --base");
  if (::access(overlay.c_str(), F_OK) != 0) return fail_errno(ErrorKind::NotFound, "--overlay {}", overlay);
  // To be written, so that nobody has it open: what lies over it would have lost it.
  const DriveConfig config{.drive_id = "commit",
                           .path_on_host = overlay,
                           .base_paths = {bases.begin(), bases.end()},
                           .cache_type = CacheType::Writeback};
  auto image = TRY(DiskImage::open(config));
  const DriveLayers::Below& below = image.layers()->below().back();
  if (below.image.is_block_device())
    return fail(ErrorKind::Unsupported,
                "--base {} is a block device, which no file can replace: write what mayfly drive export makes to it",
                bases.back());
  if (is_locked(below.image.fd()))
    return fail(
        ErrorKind::State,
        "--base {} is in use by a machine, whose overlay over it would fit no more: stop it, or use what mayfly "
        "drive export makes",
        bases.back());
  auto file = TRY(NewFile::create(bases.back(), "--base"));
  auto filled = below.overlay ? merge_overlays(image, file.fd().get()) : copy_drive(image, file.fd().get());
  if (!filled) return propagate(filled, "the new --base " + bases.back());
  TRY(give_owner_and_mode(file.fd().get(), below.image.fd(), "--base " + bases.back()));
  TRY(file.sync());
  for (const auto& [option, path, fd] :
       {std::tuple{"--base", bases.back(), below.image.fd()}, {"--overlay", overlay, image.fd()}})
    if (!names_file(path, fd))
      return fail(ErrorKind::State, "{} {} is a link, or was replaced meanwhile; give the file itself", option, path);
  TRY(file.publish());
  // What it has is in the layer now. Its machine makes a new one, over that.
  if (::unlink(overlay.c_str()) != 0)
    return fail_errno(ErrorKind::System, "--base {} is as it should be, and --overlay {} cannot be removed",
                      bases.back(), overlay);
  return sync_directory_of(overlay, "--overlay");
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

int run_drive_commit(std::span<const std::string> bases, const std::string& overlay) {
  std::signal(SIGXFSZ, SIG_IGN);
  if (auto committed = commit_drive(bases, overlay); !committed) return report(committed.error(), kExitError);
  return 0;
}

}  // namespace mayfly
