#include "rootfs-tools/image/base.h"

#include "rootfs-tools/image/digest.h"
#include "rootfs-tools/image/file_tree.h"
#include "rootfs-tools/image/image_files.h"
#include "rootfs-tools/image/layer.h"
#include "rootfs-tools/image/layer_stream.h"
#include "rootfs-tools/image/layout.h"
#include "rootfs-tools/image/output_file.h"
#include "rootfs-tools/image/run_config.h"
#include "rootfs-tools/image/run_file.h"
#include "vmm/base/files.h"
#include "vmm/base/printable.h"
#include "vmm/base/try.h"

#include <algorithm>
#include <optional>
#include <span>
#include <utility>
#include <vector>

#include <fmt/format.h>

namespace mayfly::image {
namespace {

Status check_outputs(const BaseOrder& order) {
  if (is_same_file(order.image, order.output))
    return fail(ErrorKind::InvalidArgument, "--output {} is the image itself; give another path", order.output);
  using Named = std::pair<const char*, const std::string*>;
  std::vector<Named> named = {{"--image", &order.image}, {"--output", &order.output}};
  for (const auto& [option, path] : {std::pair{"--config", &order.config}, std::pair{"--run-file", &order.run_file}}) {
    if (!*path) continue;
    for (const auto& [other, other_path] : named)
      if (*other_path == **path || is_same_file(*other_path, **path))
        return fail(ErrorKind::InvalidArgument, "{} {} is what {} names, too; give another path", option, **path,
                    other);
    named.emplace_back(option, &**path);
  }
  return {};
}

/// A file beside the base, where one is wanted.
class SideFile {
 public:
  SideFile(const char* option, const std::optional<std::string>& path) : option_(option), path_(path) {}

  Status create() {
    if (!path_) return {};
    auto made = TRY(OutputFile::create(*path_, option_));
    file_.emplace(std::move(made));
    return {};
  }
  [[nodiscard]] bool is_wanted() const { return path_.has_value(); }
  Status write(std::string_view text) {
    if (!write_all_at(file_->fd(), std::as_bytes(std::span{text}), 0))
      return fail_errno(ErrorKind::System, "{} {} cannot be written", option_, *path_);
    return {};
  }
  Status publish() { return file_ ? file_->publish() : Status{}; }

 private:
  const char* option_;
  const std::optional<std::string>& path_;
  std::optional<OutputFile> file_{};
};

class BaseMaker {
 public:
  explicit BaseMaker(const BaseOrder& order)
      : order_(order), tree_(order.limits), budget_{.data_bytes = order.limits.max_bytes} {}

  Result<BaseFacts> make() {
    TRY(check_outputs(order_));
    auto output = TRY(OutputFile::create(order_.output, "--output"));
    SideFile config{"--config", order_.config};
    SideFile run_file{"--run-file", order_.run_file};
    TRY(config.create());
    TRY(run_file.create());
    const std::string scratch = directory_of(order_.output);
    const auto files =
        TRY(ImageFiles::open(order_.image, order_.limits, scratch,
                             {.on_copied = [this](std::uint64_t bytes) { progress("Copying the image", bytes, bytes); },
                              .cancel = order_.cancel}));
    const auto image = TRY(find_image(
        files, {.path = order_.image, .name = order_.name, .platform = order_.platform, .limits = order_.limits}));
    auto spool = TRY(Spool::create(scratch));
    TRY(apply_layers(image, spool));
    const std::string what = fmt::format("--image {}: the configuration", order_.image);
    const auto run = TRY(read_run_config(image.config, tree_, spool, what));
    TRY(make_volumes(run, what));
    auto facts = TRY(write_base(spool, output.fd()));
    facts.names = image.names;
    facts.image_digest = image.digest;
    facts.run = run;
    if (run_file.is_wanted()) {
      const auto text = to_run_file(run);
      if (!text) return fail(text.error().kind, "{}: {}", what, text.error().message);
      TRY(run_file.write(*text));
    }
    if (config.is_wanted()) {
      const std::string text = to_json(run, {.image_digest = image.digest,
                                             .config_digest = image.config_digest,
                                             .names = image.names,
                                             .platform = to_text(order_.platform),
                                             .base_digest = facts.base_digest,
                                             .base_bytes = facts.base_bytes});
      TRY(config.write(text));
    }
    TRY(output.publish());
    TRY(config.publish());
    TRY(run_file.publish());
    return facts;
  }

 private:
  void progress(std::string_view step, std::uint64_t done, std::uint64_t total) const {
    if (order_.on_progress) order_.on_progress(step, done, total);
  }

  Status apply_layers(const FoundImage& image, Spool& spool) {
    std::uint64_t total = 0;
    for (const LayerBlob& each : image.layers) total += each.part.size;
    std::uint64_t before = 0;
    for (std::size_t number = 0; number < image.layers.size(); ++number) {
      const LayerBlob& layer = image.layers[number];
      LayerStream stream{layer.part, order_.limits, unpacked_left_};
      auto applied = apply_layer(stream, tree_, spool, budget_,
                                 [&] { progress("Reading layers", before + stream.done(), total); });
      if (applied) applied = stream.drain();
      if (applied) applied = check_digests(stream, layer);
      if (!applied)
        return propagate(applied,
                         fmt::format("--image {}: layer {} of {} ({})", order_.image, number + 1, image.layers.size(),
                                     short_digest(layer.digest.empty() ? layer.diff_id : layer.digest)));
      before += layer.part.size;
    }
    return {};
  }

  static Status check_digests(LayerStream& stream, const LayerBlob& layer) {
    if (const auto digest = stream.blob_digest(); !layer.digest.empty() && digest != layer.digest)
      return fail(ErrorKind::InvalidArgument, "its digest is {}; copy or fetch the image again", digest);
    if (const auto id = stream.diff_id(); id != layer.diff_id)
      return fail(ErrorKind::InvalidArgument, "it unpacks to {}, and its diff_id is {}; copy or fetch the image again",
                  id, layer.diff_id);
    return {};
  }

  /// BuildKit puts an empty volume into no layer; engines make it when they start the container.
  Status make_volumes(const RunConfig& run, std::string_view what) {
    for (const std::string& each : run.volumes) {
      if (tree_.find(each) != nullptr) continue;
      if (auto made = tree_.put(each, Inode{.mode = 0755}); !made)
        return propagate(made, fmt::format("{}: the volume '{}'", what, printable(each, kLongestShownName)));
    }
    return {};
  }

  Result<BaseFacts> write_base(const Spool& spool, int file) {
    std::uint64_t total = 0;
    count_data(tree_.root(), total);
    const auto on_data = [&](std::uint64_t done) { progress("Writing the base", done, total); };
    auto written = write_squashfs(tree_.root(), spool, file, order_.squashfs, on_data);
    if (!written) return propagate(written, "--output " + order_.output);
    Sha256 hash;
    std::vector<std::byte> buffer(std::size_t{1} << 20);
    for (std::uint64_t done = 0; done < written->size_bytes;) {
      const auto piece = std::span{buffer}.first(std::min<std::uint64_t>(buffer.size(), written->size_bytes - done));
      if (read_all_at(file, piece, done) < piece.size())
        return fail_errno(ErrorKind::System, "--output {} cannot be read again", order_.output);
      hash.update(piece);
      done += piece.size();
    }
    return BaseFacts{.names = {},
                     .image_digest = {},
                     .base_digest = hash.digest(),
                     .base_bytes = written->size_bytes,
                     .inodes = written->inodes,
                     .data_bytes = written->data_bytes,
                     .run = {},
                     .left_out_attributes = {budget_.left_out_attributes.begin(), budget_.left_out_attributes.end()}};
  }

  /// About, since hard links count once for each name: for a bar.
  static void count_data(const Inode& directory, std::uint64_t& total) {  // NOLINT(misc-no-recursion): bounded depth
    for (const auto& [name, entry] : directory.children) {
      total += entry.inode->data.size;
      count_data(*entry.inode, total);
    }
  }

  const BaseOrder& order_;
  FileTree tree_;
  LayerBudget budget_;
  std::uint64_t unpacked_left_ = order_.limits.max_bytes;
};

}  // namespace

Result<BaseFacts> make_base(const BaseOrder& order) { return BaseMaker{order}.make(); }

}  // namespace mayfly::image
