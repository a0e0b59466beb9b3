// What a container image can be: layers that are any bytes, one over the other, packed or not, with the checksums of their
// headers made right or not; or a whole archive with an image somewhere in it, which docker save might have written. Whatever
// it is, nothing crashes, nothing is over a limit, no name leads anywhere, and the same layers give the same tree and the same
// squashfs.
//
// An input is a byte of plan, and then the layers or the archive.

#include "rootfs-tools/image/image_files.h"
#include "rootfs-tools/image/layer.h"
#include "rootfs-tools/image/layer_stream.h"
#include "rootfs-tools/image/layout.h"
#include "rootfs-tools/image/run_config.h"
#include "rootfs-tools/image/squashfs.h"
#include "tests/fuzz/must.h"
#include "vmm/base/files.h"
#include "vmm/base/json_value.h"
#include "vmm/base/owned_fd.h"

#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <string>
#include <vector>

#include <fmt/format.h>

namespace mayfly::image {
namespace {

constexpr std::uint8_t kLayers = 3;  // one less than there are
constexpr std::uint8_t kPacked = 4;
constexpr std::uint8_t kWrite = 8;
constexpr std::uint8_t kSmallPieces = 16;
constexpr std::uint8_t kRepair = 32;
constexpr std::uint8_t kArchive = 64;
constexpr std::size_t kBlock = 512;
constexpr std::size_t kDeepest = 1025;

const ImageLimits kLimits{
    .max_bytes = 1 << 20, .max_files = 2000, .max_layers = 10, .max_metadata_bytes = 1 << 18, .max_lookups = 200'000};

class PieceSource final : public ByteSource {
 public:
  PieceSource(std::string_view text, std::size_t piece) : text_(text), piece_(piece) {}
  Result<std::span<const std::byte>> next() override {
    const std::string_view piece = text_.substr(0, piece_);
    text_.remove_prefix(piece.size());
    return std::as_bytes(std::span{piece});
  }

 private:
  std::string_view text_;
  std::size_t piece_;
};

/// Gives each header of a tar archive the checksum that it needs.
void repair(std::string& tar) {
  for (std::size_t at = 0; at + kBlock <= tar.size();) {
    const std::string_view digits = std::string_view{tar}.substr(at + 124, 11);
    std::uint64_t size = 0;
    for (const char digit : digits)
      if (digit >= '0' && digit <= '7') size = size * 8 + static_cast<unsigned>(digit - '0');
    unsigned sum = 8 * ' ';
    for (std::size_t index = 0; index < kBlock; ++index)
      if (index < 148 || index >= 156) sum += static_cast<unsigned char>(tar[at + index]);
    if (sum != 8 * ' ') tar.replace(at + 148, 8, fmt::format("{:06o}", sum) + std::string{"\0 ", 2});
    at += kBlock * (1 + std::min<std::uint64_t>(size, tar.size()) / kBlock + (size % kBlock != 0 ? 1 : 0));
  }
}

FilePart part_with(std::string_view text) {
  auto file = std::make_shared<OwnedFd>(::memfd_create("part", MFD_CLOEXEC));
  must(write_all_at(file->get(), std::as_bytes(std::span{text}), 0));
  return {.file = std::move(file), .offset = 0, .size = text.size()};
}

/// Everything of a tree, in order.
void print_into(const Inode& directory, std::size_t depth, std::string& text) {
  must(depth <= kDeepest);
  for (const auto& [name, entry] : directory.children) {
    must(!name.empty() && name != "." && name != ".." && !name.contains('/') && name.size() <= 255);
    const Inode& inode = *entry.inode;
    must(inode.mode <= 07777 && inode.target.size() <= 4095);
    must(inode.children.empty() || inode.kind == InodeKind::Directory);
    must(inode.kind != InodeKind::Directory || entry.inode.use_count() == 1);
    fmt::format_to(std::back_inserter(text), "{}{} {} {} {} {} {} {} {}\n", std::string(depth, ' '), name,
                   static_cast<int>(inode.kind), inode.mode, inode.uid, inode.gid, inode.modified_s, inode.target,
                   inode.data.size);
    for (const ExtendedAttribute& each : inode.attributes) text += each.name + "=" + each.value + "\n";
    print_into(inode, depth + 1, text);
  }
}

struct Outcome {
  std::string error;
  std::string tree;
  std::string base;
};

Outcome apply_all(std::uint8_t plan, const std::vector<std::string>& layers) {
  FileTree tree{kLimits};
  auto spool = must(Spool::create("/dev/shm"));
  LayerBudget budget{.data_bytes = kLimits.max_bytes};
  std::uint64_t unpacked_left = kLimits.max_bytes;
  Outcome outcome;
  for (const std::string& each : layers) {
    Status done;
    if ((plan & kPacked) != 0) {
      LayerStream stream{part_with(each), kLimits, unpacked_left};
      done = apply_layer(stream, tree, spool, budget, [] {});
      if (done) done = stream.drain();
    } else {
      PieceSource source{each, (plan & kSmallPieces) != 0 ? std::size_t{100} : std::size_t{4096}};
      done = apply_layer(source, tree, spool, budget, [] {});
    }
    if (!done) {
      must(!done.error().message.empty());
      outcome.error = done.error().message;
      break;
    }
  }
  print_into(tree.root(), 0, outcome.tree);
  (void)read_run_config(R"({"config":{"User":"www"}})", tree, spool, "it");
  if ((plan & kWrite) != 0) {
    const OwnedFd file{::memfd_create("base", MFD_CLOEXEC)};
    const auto facts = must(write_squashfs(tree.root(), spool, file.get(),
                                           {.block_size = 4096, .level = 1, .threads = 1}, [](std::uint64_t) {}));
    outcome.base.resize(facts.size_bytes);
    must(read_all_at(file.get(), std::as_writable_bytes(std::span{outcome.base}), 0) == outcome.base.size());
  }
  return outcome;
}

void play_archive(std::string_view text) {
  const FilePart part = part_with(text);
  const std::string path = fmt::format("/proc/self/fd/{}", part.file->get());
  const auto files = ImageFiles::open(path, kLimits, "/dev/shm");
  if (!files) return;
  const auto found = find_image(
      *files, {.path = "it", .name = {}, .platform = {.os = "linux", .architecture = "amd64"}, .limits = kLimits});
  if (!found) return;
  must(found->layers.size() <= kLimits.max_layers);
  FileTree tree{kLimits};
  const auto spool = must(Spool::create("/dev/shm"));
  if (const auto run = read_run_config(found->config, tree, spool, "it"))
    must(parse_json(
             to_json(*run, {.image_digest = {}, .config_digest = {}, .names = {}, .platform = {}, .base_digest = {}}),
             "it")
             .has_value());
}

void play(std::string_view input) {
  if (input.empty()) return;
  const auto plan = static_cast<std::uint8_t>(input.front());
  input.remove_prefix(1);
  if ((plan & kArchive) != 0) {
    std::string text{input};
    if ((plan & kRepair) != 0) repair(text);
    return play_archive(text);
  }
  (void)find_user(input.substr(0, 20), input, input);
  (void)signal_number(input.substr(0, 12));
  std::vector<std::string> layers;
  const std::size_t count = 1 + (plan & kLayers);
  const std::size_t each = std::max(kBlock, input.size() / count / kBlock * kBlock);
  while (layers.size() < count) {
    layers.emplace_back(layers.size() + 1 < count ? input.substr(0, each) : input);
    input.remove_prefix(std::min(input.size(), layers.back().size()));
    if ((plan & kRepair) != 0) repair(layers.back());
  }
  const Outcome first = apply_all(plan, layers);
  const Outcome second = apply_all(plan, layers);
  must(first.error == second.error && first.tree == second.tree && first.base == second.base);
}

}  // namespace
}  // namespace mayfly::image

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  mayfly::image::play({reinterpret_cast<const char*>(data), size});
  return 0;
}
