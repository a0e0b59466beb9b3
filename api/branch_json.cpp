#include "api/schema.h"
#include "vmm/base/machine_id.h"

#include <algorithm>

namespace mayfly {
namespace {

constexpr JsonChecked kMachineId{.good = is_machine_id, .rule = "1 to 64 letters, digits and hyphens"};

Result<BranchChild> read_child(const JsonValue& json, const std::string& where) {
  JsonFields fields{json, where};
  BranchChild child{.id = fields.required("id", kMachineId),
                    .api_socket = fields.required("api_socket", JsonPath{}),
                    .serial_out_path = fields.optional("serial_out_path", JsonPath{}),
                    .metadata = fields.optional("metadata", read_metadata)};
  child.network_overrides = read_network_overrides(fields, where);
  child.drive_overrides = read_new_overlays(fields, where);
  child.channel_overrides = read_channel_overrides(fields, where);
  return fields.finish(std::move(child));
}

/// Two machines of one name.
void refuse_shared(JsonFields& fields, const std::string& where, const std::vector<BranchChild>& children,
                   std::string BranchChild::* field, std::string_view name) {
  for (std::size_t i = 0; i < children.size(); ++i)
    for (std::size_t other = 0; other < i; ++other)
      if (children[i].*field == children[other].*field)
        fields.refuse(fmt::format("{0}.children[{1}].{2} is {3}, as that of children[{4}]; give each child its own",
                                  where, i, name, in_quotes(children[i].*field), other));
}

}  // namespace

Result<BranchParams> read_branch(const JsonValue& json, const std::string& where) {
  JsonFields fields{json, where};
  BranchParams params{.children = fields.required("children", JsonArray{read_child})};
  params.frozen_drives = read_frozen_drives(fields, where);
  if (params.children.empty() || params.children.size() > kMostBranchChildren)
    fields.refuse(fmt::format("{}.children has {} elements; it must have from 1 to {}", where, params.children.size(),
                              kMostBranchChildren));
  refuse_shared(fields, where, params.children, &BranchChild::id, "id");
  refuse_shared(fields, where, params.children, &BranchChild::api_socket, "api_socket");
  return fields.finish(std::move(params));
}

}  // namespace mayfly
