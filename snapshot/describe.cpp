#include "snapshot/describe.h"

#include "snapshot/sections.h"
#include "snapshot/state_file.h"
#include "vmm/base/json_writer.h"
#include "vmm/base/printable.h"
#include "vmm/config/ipv4_address.h"
#include "vmm/config/mac_address.h"

namespace mayfly {
namespace {

std::string hexadecimal(std::uint64_t number) { return fmt::format("{:#x}", number); }

std::string_view name_of(HugePages pages) {
  return pages == HugePages::None ? "None" : pages == HugePages::Transparent ? "Transparent" : "2M";
}
std::string_view name_of(CacheType cache) { return cache == CacheType::Unsafe ? "Unsafe" : "Writeback"; }
std::string_view name_of(MmdsVersion version) { return version == MmdsVersion::V1 ? "V1" : "V2"; }
std::string_view name_of(CpuidRegister reg) {
  constexpr std::array<std::string_view, 4> kNames = {"eax", "ebx", "ecx", "edx"};
  return kNames.at(static_cast<std::size_t>(reg));
}

/// The archive that prints.
class Describer {
 public:
  [[nodiscard]] static constexpr bool since(unsigned /*version*/) noexcept { return true; }

  template <typename T>
  void field(std::string_view name, T& value) {
    json_.key(name);
    put(value);
  }
  template <typename T>
  void field(std::string_view name, std::optional<T>& value) {
    if (value) field(name, *value);
  }

  [[nodiscard]] JsonWriter& json() noexcept { return json_; }

 private:
  void register_field(std::string_view name, std::uint64_t value) { json_.field(name, hexadecimal(value)); }

  template <Number T>
  void put(T& value) {
    json_.value(value);
  }
  void put(bool& value) { json_.value(value); }
  template <BoundedEnum T>
  void put(T& value) {
    if constexpr (requires { name_of(value); })
      json_.value(name_of(value));
    else
      json_.value(static_cast<unsigned>(value));
  }
  void put(std::string& value) { json_.value(std::string_view{value}); }
  void put(GuestAddress& address) { json_.value(hexadecimal(address.value)); }
  void put(MacAddress& address) { json_.value(format_mac_address(address)); }
  void put(Ipv4Address& address) { json_.value(format_ipv4_address(address)); }
  void put(std::vector<std::byte>& bytes) { json_.value(hexadecimal_digits(bytes)); }
  template <std::size_t N>
  void put(std::array<std::uint8_t, N>& bytes) {
    json_.value(hexadecimal_digits(std::as_bytes(std::span{bytes})));
  }
  template <typename T, std::size_t N>
  void put(std::array<T, N>& values) {
    put_each(values);
  }
  template <typename T>
  void put(std::vector<T>& values) {
    put_each(values);
  }
  template <typename T>
    requires(std::is_class_v<T> && !AbiStruct<T>)
  void put(T& value) {
    json_.begin_object();
    visit(*this, value);
    json_.end_object();
  }

  // KVM's structures
  template <AbiStruct T>
  void put(T& value) {
    json_.value(hexadecimal_digits(std::as_bytes(std::span{&value, 1})));
  }
  void put(kvm_regs& regs);
  void put(kvm_sregs& sregs);
  void put(kvm_segment& segment);
  void put(kvm_dtable& table);
  void put(kvm_msr_entry& msr);
  void put(kvm_cpuid_entry2& entry);

  void put_each(auto& values) {
    json_.begin_array();
    for (auto& value : values) put(value);
    json_.end_array();
  }

  JsonWriter json_;
};

void Describer::put(kvm_regs& regs) {
  json_.begin_object();
  register_field("rax", regs.rax);
  register_field("rbx", regs.rbx);
  register_field("rcx", regs.rcx);
  register_field("rdx", regs.rdx);
  register_field("rsi", regs.rsi);
  register_field("rdi", regs.rdi);
  register_field("rsp", regs.rsp);
  register_field("rbp", regs.rbp);
  register_field("r8", regs.r8);
  register_field("r9", regs.r9);
  register_field("r10", regs.r10);
  register_field("r11", regs.r11);
  register_field("r12", regs.r12);
  register_field("r13", regs.r13);
  register_field("r14", regs.r14);
  register_field("r15", regs.r15);
  register_field("rip", regs.rip);
  register_field("rflags", regs.rflags);
  json_.end_object();
}

void Describer::put(kvm_segment& segment) {
  json_.begin_object();
  register_field("base", segment.base);
  register_field("limit", segment.limit);
  register_field("selector", segment.selector);
  field("type", segment.type);
  field("present", segment.present);
  field("dpl", segment.dpl);
  field("db", segment.db);
  field("s", segment.s);
  field("l", segment.l);
  field("g", segment.g);
  field("avl", segment.avl);
  field("unusable", segment.unusable);
  json_.end_object();
}

void Describer::put(kvm_dtable& table) {
  json_.begin_object();
  register_field("base", table.base);
  register_field("limit", table.limit);
  json_.end_object();
}

void Describer::put(kvm_sregs& sregs) {
  json_.begin_object();
  field("cs", sregs.cs);
  field("ds", sregs.ds);
  field("es", sregs.es);
  field("fs", sregs.fs);
  field("gs", sregs.gs);
  field("ss", sregs.ss);
  field("tr", sregs.tr);
  field("ldt", sregs.ldt);
  field("gdt", sregs.gdt);
  field("idt", sregs.idt);
  register_field("cr0", sregs.cr0);
  register_field("cr2", sregs.cr2);
  register_field("cr3", sregs.cr3);
  register_field("cr4", sregs.cr4);
  register_field("cr8", sregs.cr8);
  register_field("efer", sregs.efer);
  register_field("apic_base", sregs.apic_base);
  json_.field("interrupt_bitmap", hexadecimal_digits(std::as_bytes(std::span{sregs.interrupt_bitmap})));
  json_.end_object();
}

void Describer::put(kvm_msr_entry& msr) {
  json_.begin_object();
  register_field("index", msr.index);
  register_field("data", msr.data);
  json_.end_object();
}

void Describer::put(kvm_cpuid_entry2& entry) {
  json_.begin_object();
  register_field("function", entry.function);
  register_field("index", entry.index);
  register_field("flags", entry.flags);
  register_field("eax", entry.eax);
  register_field("ebx", entry.ebx);
  register_field("ecx", entry.ecx);
  register_field("edx", entry.edx);
  json_.end_object();
}

void describe_layers(JsonWriter& json, std::span<const LayerSummary> layers) {
  json.key("memory_layers");
  json.begin_array();
  for (const LayerSummary& layer : layers) {
    const MemoryFileFooter& footer = layer.footer;
    const bool is_diff = footer.kind == MemoryFileKind::Diff;
    json.begin_object();
    json.field("path", std::string_view{layer.path});
    json.field("kind", is_diff ? std::string_view{"Diff"} : std::string_view{"Full"});
    json.field("snapshot", std::string_view{format_snapshot_id(footer.id)});
    if (is_diff) json.field("base", std::string_view{format_snapshot_id(footer.base_id)});
    json.field("stretches", footer.stretch_count);
    json.field("data_bytes", layer.data_bytes);
    json.field("shown_bytes", layer.shown_bytes);
    json.end_object();
  }
  json.end_array();
}

}  // namespace

std::string describe_snapshot(const Snapshot& snapshot, std::span<const LayerSummary> layers) {
  Describer describer;
  JsonWriter& json = describer.json();
  json.begin_object();
  json.field("format", kStateFormatVersion);
  for (const Section<Describer>& section : kSections<Describer>)
    section.visit_in(describer, const_cast<Snapshot&>(snapshot));  // printing changes nothing; visit() is one for all
  if (!layers.empty()) describe_layers(json, layers);
  json.end_object();
  return std::move(json).take();
}

}  // namespace mayfly
