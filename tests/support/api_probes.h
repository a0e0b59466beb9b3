#pragma once

#include "tests/support/api_description.h"

#include <string>
#include <vector>

/// Requests that a description allows or forbids, made from its schemas, nested ones included: every field left out,
/// null, of another type, out of its range or set of values, twice; fields that are not there; bodies that are no
/// object or no JSON; ids that differ; methods that a path does not have.
///
///   for (const ApiProbe& probe : probes_of(ApiDescription::ours())) ... send it ...
///
/// What is allowed here may still be refused by a machine: for its state, or for what the host has not got.
namespace mayfly::testing {

struct ApiProbe {
  std::string operation{};  ///< That it is made for: "PUT /drives/{drive_id}".
  std::string method{};
  std::string path{};
  std::string body{};
  int status = 0;      ///< 2xx: allowed.
  std::string says{};  ///< What the refusal must say: where it is of a field, its name at least.
  [[nodiscard]] bool allowed() const noexcept { return status / 100 == 2; }
};

[[nodiscard]] std::vector<ApiProbe> probes_of(const ApiDescription& description);

}  // namespace mayfly::testing
