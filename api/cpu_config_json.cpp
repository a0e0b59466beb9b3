#include "api/schema.h"
#include "vmm/base/text.h"

#include <concepts>
#include <limits>

namespace mayfly {
namespace {

constexpr JsonName<CpuidRegister> kRegisters[] = {
    {"eax", CpuidRegister::Eax}, {"ebx", CpuidRegister::Ebx}, {"ecx", CpuidRegister::Ecx}, {"edx", CpuidRegister::Edx}};

Result<std::uint32_t> read_address(const JsonValue& json, const std::string& where) {
  auto text = JsonString{}(json, where);
  if (!text) return propagate(text);
  const std::string_view digits = *text;
  const auto number = digits.starts_with("0x")   ? whole_number<std::uint32_t>(digits.substr(2), 16)
                      : digits.starts_with("0b") ? whole_number<std::uint32_t>(digits.substr(2), 2)
                                                 : whole_number<std::uint32_t>(digits);
  if (number) return *number;
  return fail(
      ErrorKind::InvalidArgument,
      "{} must be a 32-bit number in a string, hexadecimal (\"0x10a\"), binary (\"0b101\") or decimal (\"266\"), "
      "not {}",
      where, in_quotes(*text));
}

template <std::unsigned_integral Word>
Result<BitEdit<Word>> read_bitmap(const JsonValue& json, const std::string& where) {
  constexpr unsigned kBits = std::numeric_limits<Word>::digits;
  auto text = JsonString{}(json, where);
  if (!text) return propagate(text);
  std::string_view left = *text;
  if (left.starts_with("0b")) left.remove_prefix(2);
  BitEdit<Word> edit;
  unsigned bits = 0;
  for (; !left.empty(); left.remove_suffix(1)) {
    const char c = left.back();
    if (c == '_') continue;
    if (c != '0' && c != '1' && c != 'x') {
      return fail(ErrorKind::InvalidArgument, "{} must be \"0b\" and then only 0, 1, x and _, not {}", where,
                  in_quotes(*text));
    }
    if (bits == kBits) {
      return fail(ErrorKind::InvalidArgument, "{} has more than the {} bits of the register: {}", where, kBits,
                  in_quotes(*text));
    }
    if (c != 'x') edit.mask |= Word{1} << bits;
    if (c == '1') edit.value |= Word{1} << bits;
    ++bits;
  }
  if (bits == 0) return fail(ErrorKind::InvalidArgument, "{} names no bit: {}", where, in_quotes(*text));
  return edit;
}

Result<CpuidEdit> read_register(const JsonValue& json, const std::string& where) {
  JsonFields fields{json, where};
  CpuidEdit edit;
  edit.reg = fields.required("register", JsonEnum<CpuidRegister>{kRegisters});
  edit.bits = fields.required("bitmap", read_bitmap<std::uint32_t>);
  return fields.finish(edit);
}

Result<std::vector<CpuidEdit>> read_leaf(const JsonValue& json, const std::string& where) {
  JsonFields fields{json, where};
  const std::uint32_t leaf = fields.required("leaf", read_address);
  const std::uint32_t subleaf = fields.required("subleaf", read_address);
  const std::uint64_t flags = fields.required("flags", JsonWhole{.highest = std::numeric_limits<std::uint32_t>::max()});
  auto edits = fields.required("modifiers", JsonArray{read_register});
  for (CpuidEdit& edit : edits) {
    edit.leaf = leaf;
    edit.subleaf = subleaf;
    edit.flags = static_cast<std::uint32_t>(flags);
  }
  return fields.finish(std::move(edits));
}

Result<MsrEdit> read_msr(const JsonValue& json, const std::string& where) {
  JsonFields fields{json, where};
  MsrEdit edit;
  edit.address = fields.required("addr", read_address);
  edit.bits = fields.required("bitmap", read_bitmap<std::uint64_t>);
  return fields.finish(edit);
}

Result<KvmCapabilityEdit> read_capability(const JsonValue& json, const std::string& where) {
  auto text = JsonString{}(json, where);
  if (!text) return propagate(text);
  const bool removed = text->starts_with('!');
  const auto number = whole_number<std::uint32_t>(std::string_view{*text}.substr(removed ? 1 : 0));
  if (number) return KvmCapabilityEdit{.number = *number, .removed = removed};
  return fail(ErrorKind::InvalidArgument,
              "{} must be the decimal number of a KVM capability in a string, after a \"!\" to leave it out, not {}",
              where, in_quotes(*text));
}

/// A field of 64-bit Arm: accepted where it is an empty array, as tools that dump templates write it.
Result<bool> read_arm_only(const JsonValue& json, const std::string& where) {
  auto array = read_json_array(json, where);
  if (!array) return propagate(array);
  if ((*array)->empty()) return true;
  return fail(ErrorKind::InvalidArgument, "{} is for 64-bit Arm, and this is an x86-64 machine: leave it out", where);
}

template <std::unsigned_integral Word>
std::string bitmap_text(const BitEdit<Word>& edit) {
  std::string text = "0b";
  for (unsigned bit = std::numeric_limits<Word>::digits; bit-- > 0;) {
    const bool changes = ((edit.mask >> bit) & 1U) != 0;
    const bool set = ((edit.value >> bit) & 1U) != 0;
    text += !changes ? 'x' : set ? '1' : '0';
  }
  return text;
}

bool same_leaf(const CpuidEdit& a, const CpuidEdit& b) {
  return a.leaf == b.leaf && a.subleaf == b.subleaf && a.flags == b.flags;
}

void write_cpuid(JsonWriter& json, const std::vector<CpuidEdit>& edits) {
  json.key("cpuid_modifiers");
  json.begin_array();
  for (std::size_t i = 0; i < edits.size();) {
    const CpuidEdit& first = edits[i];
    json.begin_object();
    json.field("leaf", fmt::format("{:#x}", first.leaf));
    json.field("subleaf", fmt::format("{:#x}", first.subleaf));
    json.field("flags", first.flags);
    json.key("modifiers");
    json.begin_array();
    for (; i < edits.size() && same_leaf(edits[i], first); ++i) {
      json.begin_object();
      json.field("register", json_name(kRegisters, edits[i].reg));
      json.field("bitmap", bitmap_text(edits[i].bits));
      json.end_object();
    }
    json.end_array();
    json.end_object();
  }
  json.end_array();
}

}  // namespace

Result<CpuConfig> read_cpu_config(const JsonValue& json, const std::string& where) {
  JsonFields fields{json, where};
  CpuConfig config;
  config.capabilities =
      fields.optional("kvm_capabilities", JsonArray{read_capability}).value_or(std::vector<KvmCapabilityEdit>{});
  const auto leaves = fields.optional("cpuid_modifiers", JsonArray{read_leaf});
  if (leaves) {
    for (const auto& leaf : *leaves) config.cpuid.insert(config.cpuid.end(), leaf.begin(), leaf.end());
  }
  config.msrs = fields.optional("msr_modifiers", JsonArray{read_msr}).value_or(std::vector<MsrEdit>{});
  fields.optional("reg_modifiers", read_arm_only);
  fields.optional("vcpu_features", read_arm_only);
  return fields.finish(std::move(config));
}

void write_cpu_config(JsonWriter& json, const CpuConfig& config) {
  json.begin_object();
  json.key("kvm_capabilities");
  json.begin_array();
  for (const auto& capability : config.capabilities) {
    json.value(fmt::format("{}{}", capability.removed ? "!" : "", capability.number));
  }
  json.end_array();
  write_cpuid(json, config.cpuid);
  json.key("msr_modifiers");
  json.begin_array();
  for (const auto& msr : config.msrs) {
    json.begin_object();
    json.field("addr", fmt::format("{:#x}", msr.address));
    json.field("bitmap", bitmap_text(msr.bits));
    json.end_object();
  }
  json.end_array();
  json.end_object();
}

}  // namespace mayfly
