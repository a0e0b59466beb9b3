#pragma once

#include "vmm/base/error.h"

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

/// A template: a directory with a machine of an image that was booted and snapshotted once it was ready. Clones of it need no
/// more than these files, which they only read.
///
///   template.json   what follows, with each file's size and digest (rootfs-tools/template/verify.h)
///   base            the image's root file system (squashfs), the drive "base"
///   layer           what the boot wrote (ext4), below the clones' own overlays: the drive "layer"
///   state, memory   the snapshot
///   working-set     pages that the first request needs; may be absent
///   run.json        how the image wants to be run (mayfly-template base --config)
namespace mayfly::clones {

inline constexpr std::string_view kTemplateFile = "template.json";
inline constexpr const char* kBaseName = "base";
inline constexpr const char* kLayerName = "layer";
inline constexpr const char* kStateName = "state";
inline constexpr const char* kMemoryName = "memory";
inline constexpr const char* kWorkingSetName = "working-set";
inline constexpr const char* kRunName = "run.json";

struct TemplateFile {
  std::string name;
  std::uint64_t size = 0;
  std::string digest{};  ///< Empty: as older ones had none of memory and layer.
};

struct Template {
  std::string directory{};  ///< Where it was read from.
  std::string image{};      ///< The image's digest.
  std::vector<std::string> names{};
  unsigned vcpus = 1;
  std::uint64_t memory_mib = 0;
  std::uint16_t ready_port = 0;  ///< At which the function serves; 0: at none.
  std::vector<TemplateFile> files{};

  [[nodiscard]] bool has(std::string_view name) const;
  [[nodiscard]] std::string path(std::string_view name) const { return directory + '/' + std::string{name}; }
};

[[nodiscard]] std::string to_json(const Template& made);

/// The text of template.json. Errors: no such directory, no template in it.
[[nodiscard]] Result<std::string> read_manifest(const std::string& path);

/// Errors: no such directory, no template in it, one of another version, a file that is missing or has another size.
[[nodiscard]] Result<Template> read_template(const std::string& directory);

/// The body of PUT /snapshot/load for a clone whose own files are in `own` (as its monitor sees it), and the template's in
/// `files`.
struct ClonePlaces {
  std::string files;
  std::string own;
};
[[nodiscard]] std::string load_request(const Template& from, const ClonePlaces& places, bool records = false);

}  // namespace mayfly::clones
