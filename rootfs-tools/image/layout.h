#pragma once

#include "rootfs-tools/image/image_files.h"
#include "rootfs-tools/image/image_names.h"
#include "rootfs-tools/image/limits.h"

#include <optional>
#include <string>
#include <vector>

/// Finds an image among files: of an OCI image layout (image-spec 1.0), or as `docker save` and `podman save` write them.
/// Where an archive has both, as Docker's since version 25, the layout is read, since it has a digest for each file.
///
///   auto files = TRY(ImageFiles::open(path, limits, scratch));
///   auto image = TRY(find_image(files, {.path = path, .name = {}, .platform = {"linux", "amd64"}, .limits = limits}));
namespace mayfly::image {

struct ImageChoice {
  std::string path;                 ///< Of the image, for errors.
  std::optional<std::string> name;  ///< A reference, or a digest; none: the only image that there is.
  Platform platform;
  ImageLimits limits{};
};

struct LayerBlob {
  FilePart part;
  std::string digest;   ///< Of the blob; empty where the format has none.
  std::string diff_id;  ///< Of the archive that it unpacks to.
};

struct FoundImage {
  std::vector<std::string> names;
  std::string digest;  ///< Of the manifest; of the configuration where the format has no manifest with digests.
  std::string config_digest;
  std::string config;             ///< JSON.
  std::vector<LayerBlob> layers;  ///< From the bottom up.
};

/// Digests of manifest and configuration are verified; those of layers are when they are read. Errors: several images, none
/// of that name or for that platform, each with what there is.
[[nodiscard]] Result<FoundImage> find_image(const ImageFiles& files, const ImageChoice& choice);

}  // namespace mayfly::image
