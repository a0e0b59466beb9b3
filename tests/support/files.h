#pragma once

#include <cstddef>
#include <string>

/// Files of tests, whole.
namespace mayfly::testing {

/// All bytes of a file; throws where it cannot be read.
[[nodiscard]] std::string content_of(const std::string& path);

/// Writes a file, for its owner alone, in place of one that was there; its path. Throws where it cannot.
std::string make_file(const std::string& path, const std::string& content);

/// The absolute path of a file of the project, which is named from its root on ("api/openapi.yaml").
[[nodiscard]] std::string project_file(const std::string& name);

/// The absolute path of a file of this build, which is named from the build's root on ("mayfly").
[[nodiscard]] std::string build_file(const std::string& name);

/// How many descriptors this process has open: to be compared with a later count, for leaks.
[[nodiscard]] std::size_t open_descriptors();

}  // namespace mayfly::testing
