#include "tests/unit/rootfs-tools/image/archives.h"

#include "rootfs-tools/image/digest.h"
#include "tests/support/files.h"
#include "vmm/base/files.h"

#include <archive.h>
#include <archive_entry.h>
#include <sys/mman.h>
#include <zlib.h>
#include <zstd.h>

#include <algorithm>
#include <cstring>
#include <filesystem>
#include <memory>
#include <stdexcept>

#include <fmt/format.h>

namespace mayfly::image {
namespace {

constexpr std::size_t kBlock = 512;

void expect(bool holds, const char* what) {
  if (!holds) throw std::runtime_error{what};
}

la_ssize_t append_to(archive* /*archive*/, void* text, const void* bytes, std::size_t size) {
  static_cast<std::string*>(text)->append(static_cast<const char*>(bytes), size);
  return static_cast<la_ssize_t>(size);
}

}  // namespace

TarBuilder& TarBuilder::file(const std::string& name, std::string_view content, const Meta& meta) {
  members_.push_back(
      {.name = name, .type = AE_IFREG, .meta = meta, .data = std::string{content}, .size = content.size()});
  return *this;
}

TarBuilder& TarBuilder::sparse(const std::string& name, std::uint64_t size, std::uint64_t offset,
                               std::string_view data) {
  members_.push_back({.name = name, .type = AE_IFREG, .data = std::string{data}, .size = size, .offset = offset});
  return *this;
}

TarBuilder& TarBuilder::directory(const std::string& name, const Meta& meta) {
  members_.push_back({.name = name, .type = AE_IFDIR, .meta = meta});
  return *this;
}

TarBuilder& TarBuilder::symlink(const std::string& name, const std::string& target) {
  members_.push_back({.name = name, .type = AE_IFLNK, .meta = {.mode = 0777}, .target = target});
  return *this;
}

TarBuilder& TarBuilder::hard_link(const std::string& name, const std::string& target) {
  members_.push_back({.name = name, .type = AE_IFREG, .target = target, .is_hard_link = true});
  return *this;
}

TarBuilder& TarBuilder::device(const std::string& name, bool is_block, unsigned major, unsigned minor) {
  members_.push_back({.name = name, .type = is_block ? AE_IFBLK : AE_IFCHR, .major = major, .minor = minor});
  return *this;
}

TarBuilder& TarBuilder::fifo(const std::string& name) {
  members_.push_back({.name = name, .type = AE_IFIFO});
  return *this;
}

std::string TarBuilder::finish() const {
  std::string text;
  archive* const writer = ::archive_write_new();
  // By its name, all formats would be linked.
  if (format_ == "gnutar")
    ::archive_write_set_format_gnutar(writer);
  else if (format_ == "ustar")
    ::archive_write_set_format_ustar(writer);
  else
    ::archive_write_set_format_pax(writer);
  ::archive_write_set_bytes_per_block(writer, static_cast<int>(kBlock));
  ::archive_write_set_bytes_in_last_block(writer, 1);
  expect(::archive_write_open(writer, &text, nullptr, append_to, nullptr) == ARCHIVE_OK, "archive_write_open");
  for (const Member& each : members_) {
    archive_entry* const entry = ::archive_entry_new();
    ::archive_entry_set_pathname(entry, each.name.c_str());
    ::archive_entry_set_filetype(entry, each.type);
    ::archive_entry_set_perm(entry, each.meta.mode);
    ::archive_entry_set_uid(entry, each.meta.uid);
    ::archive_entry_set_gid(entry, each.meta.gid);
    ::archive_entry_set_mtime(entry, each.meta.modified_s, 0);
    ::archive_entry_set_size(entry, static_cast<la_int64_t>(each.size));
    if (each.is_hard_link)
      ::archive_entry_set_hardlink(entry, each.target.c_str());
    else if (each.type == AE_IFLNK)
      ::archive_entry_set_symlink(entry, each.target.c_str());
    ::archive_entry_set_rdevmajor(entry, each.major);
    ::archive_entry_set_rdevminor(entry, each.minor);
    for (const auto& [name, value] : each.meta.attributes)
      ::archive_entry_xattr_add_entry(entry, name.c_str(), value.data(), value.size());
    const bool has_holes = each.size != each.data.size();
    if (has_holes)
      ::archive_entry_sparse_add_entry(entry, static_cast<la_int64_t>(each.offset),
                                       static_cast<la_int64_t>(each.data.size()));
    if (::archive_write_header(writer, entry) < ARCHIVE_WARN)
      throw std::runtime_error{each.name + ": " + ::archive_error_string(writer)};
    if (has_holes) {
      // libarchive takes the whole file, and leaves out what is a hole.
      std::string whole(each.size, '\0');
      whole.replace(each.offset, each.data.size(), each.data);
      expect(::archive_write_data(writer, whole.data(), whole.size()) >= 0, "archive_write_data");
    } else if (!each.data.empty()) {
      expect(::archive_write_data(writer, each.data.data(), each.data.size()) >= 0, "archive_write_data");
    }
    ::archive_entry_free(entry);
  }
  ::archive_write_close(writer);
  ::archive_write_free(writer);
  return text;
}

std::string raw_header(std::string_view name, char type, std::uint64_t size, std::string_view link) {
  std::string block(kBlock, '\0');
  const auto put = [&](std::size_t at, std::string_view text) { block.replace(at, text.size(), text); };
  put(0, name);
  put(100, "0000644");
  put(108, "0000000");
  put(116, "0000000");
  put(124, fmt::format("{:011o}", size));
  put(136, "14524770400");
  put(148, "        ");
  block[156] = type;
  put(157, link);
  put(257, std::string_view{"ustar\00000", 8});
  unsigned sum = 0;
  for (const char each : block) sum += static_cast<unsigned char>(each);
  put(148, fmt::format("{:06o}", sum));
  block[154] = '\0';
  return block;
}

std::string pax_header(const std::vector<std::pair<std::string, std::string>>& records) {
  std::string text;
  for (const auto& [key, value] : records) {
    // A record's length counts its own digits.
    const std::size_t rest = key.size() + value.size() + 3;
    std::size_t length = rest;
    while (fmt::format("{}", length).size() + rest != length) length = fmt::format("{}", length).size() + rest;
    text += fmt::format("{} {}={}\n", length, key, value);
  }
  return raw_header("pax", 'x', text.size()) + padded(text);
}

std::string padded(std::string_view data) {
  std::string text{data};
  text.resize((text.size() + kBlock - 1) / kBlock * kBlock);
  return text;
}

std::string gzip(std::string_view data) {
  z_stream stream{};
  expect(::deflateInit2(&stream, 6, Z_DEFLATED, MAX_WBITS + 16, 8, Z_DEFAULT_STRATEGY) == Z_OK, "deflateInit2");
  std::string packed(::deflateBound(&stream, data.size()), '\0');
  stream.next_in = reinterpret_cast<Bytef*>(const_cast<char*>(data.data()));
  stream.avail_in = static_cast<uInt>(data.size());
  stream.next_out = reinterpret_cast<Bytef*>(packed.data());
  stream.avail_out = static_cast<uInt>(packed.size());
  expect(::deflate(&stream, Z_FINISH) == Z_STREAM_END, "deflate");
  ::deflateEnd(&stream);
  return packed.substr(0, stream.total_out);
}

std::string zstd(std::string_view data) {
  std::string packed(::ZSTD_compressBound(data.size()), '\0');
  const std::size_t size = ::ZSTD_compress(packed.data(), packed.size(), data.data(), data.size(), 3);
  expect(::ZSTD_isError(size) == 0, "ZSTD_compress");
  return packed.substr(0, size);
}

FilePart part_of(std::string_view content) {
  auto file = std::make_shared<OwnedFd>(::memfd_create("part", MFD_CLOEXEC));
  expect(write_all_at(file->get(), std::as_bytes(std::span{content}), 0), "write_all_at");
  return {.file = std::move(file), .offset = 0, .size = content.size()};
}

std::string add_blob(Files& files, std::string_view content, std::string_view type) {
  const std::string digest = digest_of(content);
  files[blob_name(digest)] = content;
  return fmt::format(R"({{"mediaType":"{}","digest":"{}","size":{})", type, digest, content.size());
}

namespace {

std::string config_of(const MadeImage& image) {
  std::string ids;
  for (const MadeLayer& each : image.layers) ids += (ids.empty() ? "\"" : ",\"") + digest_of(each.tar) + "\"";
  return fmt::format(R"({{"os":"{}","architecture":"{}",{},"rootfs":{{"type":"layers","diff_ids":[{}]}}}})", image.os,
                     image.architecture, image.config, ids);
}

}  // namespace

std::string add_image(Files& files, const MadeImage& image) {
  const std::string config = add_blob(files, config_of(image), "application/vnd.oci.image.config.v1+json");
  std::string layers;
  for (const MadeLayer& each : image.layers)
    layers +=
        (layers.empty() ? "" : ",") + add_blob(files, each.packed.empty() ? each.tar : each.packed, each.type) + "}";
  const std::string manifest = fmt::format(R"({{"schemaVersion":2,"config":{}}},"layers":[{}]}})", config, layers);
  return add_blob(files, manifest, "application/vnd.oci.image.manifest.v1+json");
}

void add_index(Files& files, const std::vector<std::string>& descriptors) {
  std::string list;
  for (const std::string& each : descriptors) list += (list.empty() ? "" : ",") + each;
  files["oci-layout"] = R"({"imageLayoutVersion":"1.0.0"})";
  files["index.json"] = fmt::format(R"({{"schemaVersion":2,"manifests":[{}]}})", list);
}

void add_saved(Files& files, const MadeImage& image, const std::string& tag) {
  const std::string config = config_of(image);
  const std::string config_name = digest_of(config).substr(7) + ".json";
  files[config_name] = config;
  std::string layers;
  for (const MadeLayer& each : image.layers) {
    const std::string name = digest_of(each.tar).substr(7) + "/layer.tar";
    files[name] = each.packed.empty() ? each.tar : each.packed;
    layers += (layers.empty() ? "\"" : ",\"") + name + "\"";
  }
  const std::string entry =
      fmt::format(R"({{"Config":"{}","RepoTags":["{}"],"Layers":[{}]}})", config_name, tag, layers);
  std::string& manifest = files["manifest.json"];
  manifest = manifest.empty() ? "[" + entry + "]" : manifest.substr(0, manifest.size() - 1) + "," + entry + "]";
}

std::string tar_of(const Files& files) {
  TarBuilder tar{"ustar"};
  for (const auto& [name, content] : files) tar.file(name, content);
  return tar.finish();
}

void write_files(const Files& files, const std::string& directory) {
  for (const auto& [name, content] : files) {
    const std::filesystem::path path = directory + "/" + name;
    std::filesystem::create_directories(path.parent_path());
    mayfly::testing::make_file(path.string(), content);
  }
}

std::vector<std::string> names_in(const std::string& directory) {
  std::vector<std::string> names;
  for (const auto& each : std::filesystem::directory_iterator{directory}) names.push_back(each.path().filename());
  std::ranges::sort(names);
  return names;
}

}  // namespace mayfly::image
