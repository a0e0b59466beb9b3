#include "rootfs-tools/image/layout.h"

#include "rootfs-tools/image/digest.h"
#include "vmm/base/json_fields.h"
#include "vmm/base/printable.h"
#include "vmm/base/try.h"

#include <algorithm>
#include <array>
#include <string_view>
#include <utility>

namespace mayfly::image {
namespace {

constexpr std::array<std::string_view, 2> kIndexTypes{"application/vnd.oci.image.index.v1+json",
                                                      "application/vnd.docker.distribution.manifest.list.v2+json"};
constexpr std::array<std::string_view, 2> kManifestTypes{"application/vnd.oci.image.manifest.v1+json",
                                                         "application/vnd.docker.distribution.manifest.v2+json"};
constexpr std::array<std::string_view, 2> kConfigTypes{"application/vnd.oci.image.config.v1+json",
                                                       "application/vnd.docker.container.image.v1+json"};
constexpr std::array<std::string_view, 7> kLayerTypes{"application/vnd.oci.image.layer.v1.tar",
                                                      "application/vnd.oci.image.layer.v1.tar+gzip",
                                                      "application/vnd.oci.image.layer.v1.tar+zstd",
                                                      "application/vnd.docker.image.rootfs.diff.tar",
                                                      "application/vnd.docker.image.rootfs.diff.tar.gzip",
                                                      "application/vnd.docker.image.rootfs.diff.tar.zstd",
                                                      "application/vnd.docker.image.rootfs.diff.tar+zstd"};
/// Annotations with an image's name, of the specification and of containerd.
constexpr std::array<std::string_view, 2> kNameAnnotations{"io.containerd.image.name",
                                                           "org.opencontainers.image.ref.name"};
constexpr int kDeepestIndex = 8;
constexpr std::size_t kMostDescriptors = 10'000;
/// All that an index leads to inherits its names, and a template's description has those of its image.
constexpr std::size_t kLongestReference = 4096;
constexpr std::size_t kLongestNames = std::size_t{128} << 10;
/// Of blobs, which may be named again and again.
constexpr std::size_t kMostRead = std::size_t{256} << 20;
/// Of a media type (RFC 6838, 4.2) and of a platform's parts, which are kept of every manifest.
constexpr std::size_t kLongestWord = 255;
/// Two letters of a document may be a value, which takes forty bytes when it is parsed. No index of kMostDescriptors comes near it.
constexpr std::ptrdiff_t kMostValues = std::ptrdiff_t{1} << 19;

/// A reference to a blob.
struct Descriptor {
  std::string type;
  std::string digest;
  std::uint64_t size = 0;
};

/// A manifest that an index leads to, or an index within.
struct Candidate {
  Descriptor manifest;
  std::vector<std::string> names;
  std::optional<Platform> platform;
};

bool is_among(std::string_view text, std::span<const std::string_view> list) {
  return std::ranges::find(list, text) != list.end();
}

std::string text_shown(std::string_view text) { return printable(text, kLongestShownName); }

std::string list_of(std::vector<std::string> names) {
  std::ranges::sort(names);
  const auto same = std::ranges::unique(names);
  names.erase(same.begin(), same.end());
  constexpr std::size_t kMostListed = 50;
  std::string list;
  for (std::size_t number = 0; number < names.size() && number < kMostListed; ++number)
    list += (list.empty() ? "" : ", ") + text_shown(names[number]);
  return names.size() > kMostListed ? list + fmt::format(" and {} more", names.size() - kMostListed) : list;
}

/// Of a document of the image's.
Result<JsonValue> parse_document(std::string_view text, std::string_view what) {
  const auto values = std::ranges::count_if(text, [](char c) { return c == ',' || c == '[' || c == '{'; });
  if (values > kMostValues)
    return fail(ErrorKind::TooLarge, "{} has over {} values; build the image anew", what, kMostValues);
  return parse_json(text, what);
}

Result<std::string> word_field(const JsonValue& object, std::string_view name, std::string_view what) {
  auto word = TRY(text_field(object, name, what));
  if (word.size() > kLongestWord)
    return fail(ErrorKind::TooLarge, "{}: '{}' has {} bytes, and {} are allowed; build the image anew", what, name,
                word.size(), kLongestWord);
  return word;
}

Result<Platform> platform_of(const JsonValue& object, std::string_view what) {
  Platform platform;
  platform.os = TRY(word_field(object, "os", what));
  platform.architecture = TRY(word_field(object, "architecture", what));
  platform.variant = TRY(word_field(object, "variant", what));
  return platform;
}

Result<Descriptor> descriptor_of(const JsonValue& object, std::string_view what) {
  Descriptor descriptor;
  descriptor.type = TRY(word_field(object, "mediaType", what));
  descriptor.digest = TRY(text_field(object, "digest", what));
  const auto size = TRY(number_field(object, "size", what));
  if (!is_digest(descriptor.digest))
    return fail(ErrorKind::Unsupported, "{}: the digest '{}' is not sha256: and 64 digits; build the image anew", what,
                text_shown(descriptor.digest));
  if (!size) return fail(ErrorKind::InvalidArgument, "{}: a descriptor has no 'size'; build the image anew", what);
  descriptor.size = *size;
  return descriptor;
}

/// Of a candidate; what it is called where nothing else names it.
std::vector<std::string> names_of(const Candidate& candidate) {
  if (candidate.names.empty()) return {candidate.manifest.digest};
  return candidate.names;
}

class LayoutReader {
 public:
  LayoutReader(const ImageFiles& files, const ImageChoice& choice) : files_(files), choice_(choice) {}

  Result<FoundImage> find() {
    auto text = TRY(files_.read("index.json", kLongestDocument));
    TRY(collect(std::move(text), {}, 0, "'index.json'"));
    TRY(choose_by_name());
    TRY(choose_by_platform());
    return read_manifest(candidates_.front());
  }

 private:
  [[nodiscard]] std::string in_image(std::string_view what) const {
    return fmt::format("--image {}: {}", choice_.path, what);
  }

  /// The text of a blob, which is what its digest says.
  Result<std::string> read_blob(const Descriptor& blob) {
    auto text = TRY(files_.read(blob_name(blob.digest), kLongestDocument));
    read_ += text.size();
    if (read_ > kMostRead)
      return fail(ErrorKind::TooLarge, "{} bytes of indexes, manifests and configurations; build the image anew",
                  in_image(fmt::format("over {}", kMostRead)));
    if (text.size() != blob.size || digest_of(text) != blob.digest)
      return fail(ErrorKind::InvalidArgument,
                  "{} has {} bytes with digest {}, and should have {}; copy or fetch the image again",
                  in_image(blob.digest), text.size(), digest_of(text), blob.size);
    return text;
  }

  Status collect(std::string index, const std::vector<std::string>& names, int depth, std::string_view what) {
    if (depth > kDeepestIndex)
      return fail(ErrorKind::TooLarge, "{} is an index within over {} others; build the image anew", in_image(what),
                  kDeepestIndex);
    auto listed = TRY(read_index(index, what));
    std::string{}.swap(index);  // or documents of all depths would be in memory at once
    for (Candidate& each : listed) {
      if (each.names.empty()) each.names = names;
      if (is_among(each.manifest.type, kIndexTypes)) {
        auto inner = TRY(read_blob(each.manifest));
        TRY(collect(std::move(inner), each.names, depth + 1, each.manifest.digest));
      } else if (!is_among(each.manifest.type, kManifestTypes)) {
        others_.push_back(std::move(each.manifest.type));
      } else if (!each.platform || each.platform->os != "unknown") {
        // (What a build says about an image stands beside it, for no platform.)
        candidates_.push_back(std::move(each));
      }
    }
    return {};
  }

  Result<std::vector<Candidate>> read_index(const std::string& text, std::string_view what) {
    const auto index = TRY(parse_document(text, in_image(what)));
    const auto manifests = TRY(array_field(index, "manifests", in_image(what)));
    std::vector<Candidate> listed;
    for (const JsonValue& each : manifests) {
      if (++descriptors_ > kMostDescriptors)
        return fail(ErrorKind::TooLarge, "{}: over {} manifests; build the image anew", in_image(what),
                    kMostDescriptors);
      Candidate candidate;
      candidate.manifest = TRY(descriptor_of(each, in_image(what)));
      candidate.names = TRY(annotated_names(each, what));
      const bool is_manifest = is_among(candidate.manifest.type, kManifestTypes);
      const JsonValue* const platform = TRY(field_of(each, "platform", in_image(what)));
      if (is_manifest && platform != nullptr) candidate.platform = TRY(platform_of(*platform, in_image(what)));
      listed.push_back(std::move(candidate));
    }
    return listed;
  }

  Result<std::vector<std::string>> annotated_names(const JsonValue& descriptor, std::string_view what) const {
    std::vector<std::string> names;
    const JsonValue* const annotations = TRY(field_of(descriptor, "annotations", in_image(what)));
    if (annotations == nullptr) return names;
    for (const std::string_view each : kNameAnnotations) {
      auto name = TRY(text_field(*annotations, each, in_image(what)));
      if (name.size() > kLongestReference)
        return fail(ErrorKind::TooLarge, "{}: a name has {} bytes, and {} are allowed; tag the image anew",
                    in_image(what), name.size(), kLongestReference);
      if (!name.empty() && std::ranges::find(names, name) == names.end()) names.push_back(std::move(name));
    }
    return names;
  }

  [[nodiscard]] std::unexpected<Error> no_image() const {
    return fail(ErrorKind::InvalidArgument, "{} has no image{}; is it one of another kind?", in_image("the layout"),
                others_.empty() ? "" : ", but " + list_of(others_));
  }

  Status choose_by_name() {
    if (candidates_.empty()) return no_image();
    if (!choice_.name) return {};
    std::vector<std::string> all;
    for (const Candidate& each : candidates_) std::ranges::copy(names_of(each), std::back_inserter(all));
    std::erase_if(candidates_, [this](const Candidate& each) {
      return each.manifest.digest != *choice_.name &&
             std::ranges::none_of(each.names, [&](const auto& name) { return same_reference(name, *choice_.name); });
    });
    if (!candidates_.empty()) return {};
    return fail(ErrorKind::NotFound, "--name {}: there is no such image in {}; it has {}", text_shown(*choice_.name),
                choice_.path, list_of(std::move(all)));
  }

  Status choose_by_platform() {
    std::vector<std::string> offered;
    std::vector<Candidate> fitting;
    for (Candidate& each : candidates_) {
      if (!each.platform) each.platform = TRY(platform_by_config(each));
      if (!each.platform) continue;
      offered.push_back(to_text(*each.platform));
      if (!fits(*each.platform, choice_.platform)) continue;
      // One image may have several names.
      const auto same = std::ranges::find_if(
          fitting, [&](const Candidate& other) { return other.manifest.digest == each.manifest.digest; });
      if (same == fitting.end())
        fitting.push_back(each);
      else
        std::ranges::copy(each.names, std::back_inserter(same->names));
    }
    if (offered.empty()) return no_image();
    candidates_ = std::move(fitting);
    if (candidates_.empty())
      return fail(ErrorKind::NotFound, "--platform {}: there is no image for it in {}, but for {}",
                  to_text(choice_.platform), choice_.path, list_of(std::move(offered)));
    if (candidates_.size() == 1) return {};
    std::vector<std::string> names;
    for (const Candidate& each : candidates_) {
      auto own = names_of(each);
      // A name that another one has, too, chooses none.
      const bool is_ambiguous = choice_.name.has_value();
      names.push_back(is_ambiguous ? each.manifest.digest : own.front());
    }
    return fail(ErrorKind::InvalidArgument, "--image {} has {} images; choose one by --name: {}", choice_.path,
                candidates_.size(), list_of(std::move(names)));
  }

  /// Of a manifest whose index does not tell. None: it is of no image, such as a signature or a list of contents, which stand
  /// beside the image that they are about.
  Result<std::optional<Platform>> platform_by_config(const Candidate& candidate) {
    auto text = TRY(read_blob(candidate.manifest));
    const std::string what = in_image(candidate.manifest.digest);
    const auto manifest = TRY(parse_document(text, what));
    const auto config = TRY(config_of(manifest, what));
    if (!is_among(config.type, kConfigTypes)) {
      const auto kind = TRY(word_field(manifest, "artifactType", what));
      others_.push_back(kind.empty() ? config.type : kind);
      return std::nullopt;
    }
    text = TRY(read_blob(config));
    const auto json = TRY(parse_document(text, in_image("the configuration")));
    return platform_of(json, in_image("the configuration"));
  }

  static Result<Descriptor> config_of(const JsonValue& manifest, const std::string& what) {
    const JsonValue* const field = TRY(field_of(manifest, "config", what));
    if (field == nullptr)
      return fail(ErrorKind::Unsupported, "{} has no 'config': it is no manifest of schema version 2", what);
    return descriptor_of(*field, what);
  }

  Result<FoundImage> read_manifest(const Candidate& candidate) {
    const std::string what = in_image(candidate.manifest.digest);
    auto text = TRY(read_blob(candidate.manifest));
    const auto manifest = TRY(parse_document(text, what));
    const auto config = TRY(config_of(manifest, what));
    if (!is_among(config.type, kConfigTypes))
      return fail(ErrorKind::Unsupported, "{} is no container image: its configuration is of type '{}'", what,
                  text_shown(config.type));
    FoundImage image{.names = candidate.names,
                     .digest = candidate.manifest.digest,
                     .config_digest = config.digest,
                     .config = {},
                     .layers = {}};
    image.config = TRY(read_blob(config));
    const auto layers = TRY(array_field(manifest, "layers", what));
    for (const JsonValue& each : layers) {
      const auto layer = TRY(descriptor_of(each, what));
      TRY(check_layer_type(layer, what));
      auto part = TRY(files_.open(blob_name(layer.digest)));
      if (part.size != layer.size)
        return fail(ErrorKind::InvalidArgument,
                    "{}: the layer {} has {} bytes, and should have {}; copy or fetch the image again", what,
                    short_digest(layer.digest), part.size, layer.size);
      image.layers.push_back({.part = std::move(part), .digest = layer.digest, .diff_id = {}});
    }
    return image;
  }

  static Status check_layer_type(const Descriptor& layer, std::string_view what) {
    if (is_among(layer.type, kLayerTypes)) return {};
    if (layer.type.contains("nondistributable") || layer.type.contains("foreign"))
      return fail(ErrorKind::Unsupported,
                  "{}: the layer {} is a foreign one ('{}'), which images do not contain; use an image without", what,
                  short_digest(layer.digest), text_shown(layer.type));
    if (layer.type.ends_with("+encrypted"))
      return fail(ErrorKind::Unsupported, "{}: the layer {} is encrypted ('{}'); decrypt the image first", what,
                  short_digest(layer.digest), text_shown(layer.type));
    return fail(ErrorKind::Unsupported, "{}: the layer {} is of the unknown type '{}'; build the image anew", what,
                short_digest(layer.digest), text_shown(layer.type));
  }

  const ImageFiles& files_;
  const ImageChoice& choice_;
  std::vector<Candidate> candidates_;
  std::vector<std::string> others_;  // types of what is no image
  std::size_t descriptors_ = 0;
  std::size_t read_ = 0;
};

/// What `docker save` has written since 1.10, and `podman save` writes: manifest.json, and files that it names.
class SavedReader {
 public:
  SavedReader(const ImageFiles& files, const ImageChoice& choice) : files_(files), choice_(choice) {}

  Result<FoundImage> find() const {
    const std::string what = fmt::format("--image {}: 'manifest.json'", choice_.path);
    auto text = TRY(files_.read("manifest.json", kLongestDocument));
    const auto json = TRY(parse_document(text, what));
    const auto* const images = std::get_if<JsonValue::Array>(&json.data);
    if (images == nullptr || images->empty())
      return fail(ErrorKind::InvalidArgument, "{} must be an array of images", what);
    std::vector<std::string> all;
    std::vector<const JsonValue*> fitting;
    for (const JsonValue& each : *images) {
      const auto names = TRY(texts_field(each, "RepoTags", what));
      const auto config = TRY(text_field(each, "Config", what));
      const auto is_wanted = [&](const auto& name) { return same_reference(name, *choice_.name); };
      if (!choice_.name || *choice_.name == config || std::ranges::any_of(names, is_wanted)) fitting.push_back(&each);
      all.push_back(names.empty() ? config : names.front());
    }
    if (fitting.empty())
      return fail(ErrorKind::NotFound, "--name {}: there is no such image in {}; it has {}",
                  text_shown(choice_.name.value_or("")), choice_.path, list_of(std::move(all)));
    if (fitting.size() > 1)
      return fail(ErrorKind::InvalidArgument, "--image {} has {} images; choose one by --name: {}", choice_.path,
                  fitting.size(), list_of(std::move(all)));
    return read(*fitting.front(), what);
  }

 private:
  Result<FoundImage> read(const JsonValue& manifest, const std::string& what) const {
    FoundImage image;
    image.names = TRY(texts_field(manifest, "RepoTags", what));
    const auto config = TRY(text_field(manifest, "Config", what));
    image.config = TRY(files_.read(config, kLongestDocument));
    image.config_digest = digest_of(image.config);
    image.digest = image.config_digest;
    // Its name is its digest, in each version's way.
    std::string stem = config.substr(config.rfind('/') == std::string::npos ? 0 : config.rfind('/') + 1);
    if (stem.ends_with(".json")) stem.resize(stem.size() - 5);
    if (is_digest("sha256:" + stem) && "sha256:" + stem != image.config_digest)
      return fail(ErrorKind::InvalidArgument,
                  "--image {}: the configuration '{}' has the digest {}; copy or fetch the image again", choice_.path,
                  text_shown(config), image.config_digest);
    const auto layers = TRY(texts_field(manifest, "Layers", what));
    for (const std::string& each : layers) {
      auto part = TRY(files_.open(each));
      image.layers.push_back({.part = std::move(part), .digest = {}, .diff_id = {}});
    }
    return image;
  }

  const ImageFiles& files_;
  const ImageChoice& choice_;
};

/// The digests of what layers unpack to; and that the image is for the platform at all.
Status check_config(FoundImage& image, const ImageChoice& choice) {
  const std::string what =
      fmt::format("--image {}: the configuration {}", choice.path, short_digest(image.config_digest));
  const auto json = TRY(parse_document(image.config, what));
  const auto platform = TRY(platform_of(json, what));
  if ((!platform.os.empty() && platform.os != choice.platform.os) ||
      (!platform.architecture.empty() && platform.architecture != choice.platform.architecture))
    return fail(ErrorKind::NotFound, "--platform {}: the image in {} is for {}", to_text(choice.platform), choice.path,
                to_text(platform));
  if (image.layers.size() > choice.limits.max_layers)
    return fail(ErrorKind::TooLarge, "--image {} has {} layers, and {} are allowed; --max-layers raises the limit",
                choice.path, image.layers.size(), choice.limits.max_layers);
  const JsonValue* const rootfs = TRY(field_of(json, "rootfs", what));
  std::vector<std::string> ids;
  if (rootfs != nullptr) ids = TRY(texts_field(*rootfs, "diff_ids", what));
  if (ids.size() != image.layers.size())
    return fail(ErrorKind::InvalidArgument, "{} has {} diff_ids for {} layers; build the image anew", what, ids.size(),
                image.layers.size());
  for (std::size_t number = 0; number < ids.size(); ++number) {
    if (!is_digest(ids[number]))
      return fail(ErrorKind::Unsupported, "{}: the diff_id '{}' is not sha256: and 64 digits; build the image anew",
                  what, text_shown(ids[number]));
    image.layers[number].diff_id = std::move(ids[number]);
  }
  return {};
}

}  // namespace

Result<FoundImage> find_image(const ImageFiles& files, const ImageChoice& choice) {
  const bool is_layout = files.has("index.json") && files.has("oci-layout");
  if (!is_layout && !files.has("manifest.json"))
    return fail(
        ErrorKind::InvalidArgument,
        "--image {} is no image: it has neither 'index.json' with 'oci-layout' nor 'manifest.json'; make one by "
        "skopeo copy, docker save or podman save",
        choice.path);
  auto found = is_layout ? LayoutReader(files, choice).find() : SavedReader(files, choice).find();
  auto image = TRY(std::move(found));
  std::size_t names_bytes = 0;
  for (const std::string& each : image.names) names_bytes += each.size();
  if (names_bytes > kLongestNames)
    return fail(ErrorKind::TooLarge, "--image {}: the names of the image have over {} bytes; tag it anew", choice.path,
                kLongestNames);
  TRY(check_config(image, choice));
  return image;
}

}  // namespace mayfly::image
