#pragma once

#include "rootfs-tools/image/byte_source.h"

#include <cstdint>
#include <map>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

/// Archives and images in memory, as tools write them and as no tool would.
namespace mayfly::image {

struct Meta {
  unsigned mode = 0644;
  std::int64_t uid = 0;
  std::int64_t gid = 0;
  std::int64_t modified_s = 1'700'000'000;
  std::vector<std::pair<std::string, std::string>> attributes{};
};

/// A tar archive by libarchive's writer.
class TarBuilder {
 public:
  explicit TarBuilder(std::string format = "pax") : format_(std::move(format)) {}

  TarBuilder& file(const std::string& name, std::string_view content, const Meta& meta = {});
  /// Data at `offset`, of a file of `size` bytes with holes.
  TarBuilder& sparse(const std::string& name, std::uint64_t size, std::uint64_t offset, std::string_view data);
  TarBuilder& directory(const std::string& name, const Meta& meta = {.mode = 0755});
  TarBuilder& symlink(const std::string& name, const std::string& target);
  TarBuilder& hard_link(const std::string& name, const std::string& target);
  TarBuilder& device(const std::string& name, bool is_block, unsigned major, unsigned minor);
  TarBuilder& fifo(const std::string& name);
  [[nodiscard]] std::string finish() const;

 private:
  struct Member {
    std::string name;
    unsigned type = 0;
    Meta meta{};
    std::string data{};
    std::string target{};
    bool is_hard_link = false;
    unsigned major = 0;
    unsigned minor = 0;
    std::uint64_t size = 0;
    std::uint64_t offset = 0;
  };
  std::string format_;
  std::vector<Member> members_;
};

/// One header of the ustar dialect, with a checksum that is right; `size` is what it claims.
[[nodiscard]] std::string raw_header(std::string_view name, char type, std::uint64_t size, std::string_view link = "");
/// A pax header with these records, to stand before an entry.
[[nodiscard]] std::string pax_header(const std::vector<std::pair<std::string, std::string>>& records);
/// Data of a file, padded to whole blocks.
[[nodiscard]] std::string padded(std::string_view data);

[[nodiscard]] std::string gzip(std::string_view data);
[[nodiscard]] std::string zstd(std::string_view data);

/// The bytes of a string, in pieces of a size that suits the test.
class TextSource final : public ByteSource {
 public:
  explicit TextSource(std::string text, std::size_t piece = 1000) : text_(std::move(text)), piece_(piece) {}
  Result<std::span<const std::byte>> next() override {
    const std::string_view left = std::string_view{text_}.substr(done_, piece_);
    done_ += left.size();
    return std::as_bytes(std::span{left});
  }

 private:
  std::string text_;
  std::size_t piece_;
  std::size_t done_ = 0;
};

/// A file without a name that has `content`.
[[nodiscard]] FilePart part_of(std::string_view content);

using Files = std::map<std::string, std::string>;

struct MadeLayer {
  std::string tar;
  std::string packed{};  ///< Empty: not packed.
  std::string type = "application/vnd.oci.image.layer.v1.tar";
};

struct MadeImage {
  std::vector<MadeLayer> layers;
  std::string config = R"("config":{})";  ///< Fields of the configuration beside platform and rootfs.
  std::string os = "linux";
  std::string architecture = "amd64";
};

/// Puts the blobs of an image into `files`; its descriptor, without the last brace: `,"annotations":...}` may follow.
std::string add_image(Files& files, const MadeImage& image);
/// Puts a blob into `files`; its descriptor, without the last brace.
std::string add_blob(Files& files, std::string_view content, std::string_view type);
/// A layout whose index has these descriptors.
void add_index(Files& files, const std::vector<std::string>& descriptors);
/// As docker save wrote until version 25.
void add_saved(Files& files, const MadeImage& image, const std::string& tag);

[[nodiscard]] std::string tar_of(const Files& files);
/// Writes them below `directory`.
void write_files(const Files& files, const std::string& directory);

/// Names of what is in a directory, in order.
[[nodiscard]] std::vector<std::string> names_in(const std::string& directory);

}  // namespace mayfly::image
