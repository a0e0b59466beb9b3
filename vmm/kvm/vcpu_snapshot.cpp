#include "vmm/kvm/vcpu_snapshot.h"

#include <algorithm>
#include <array>
#include <iterator>

namespace mayfly {
namespace {

constexpr std::uint32_t kMsrTsc = 0x10;
constexpr std::uint32_t kMsrTscDeadline = 0x6E0;
constexpr std::uint32_t kMsrDeCfg = 0xC001'1029;            // MSR_AMD64_DE_CFG; KVM counts it as a feature
constexpr std::uint32_t kMsrAsyncPageFaults = 0x4B56'4D02;  // MSR_KVM_ASYNC_PF_EN
/// More than a second of any time stamp counter.
constexpr std::uint64_t kFarAway = 1ULL << 36;

/// A run of registers.
struct MsrRange {
  std::uint32_t first;
  std::uint32_t count;
};

/// What KVM keeps for a guest but leaves out of KVM_GET_MSR_INDEX_LIST (arch/x86/kvm/x86.c, msrs_to_save_base and
/// emulated_msrs_all), and what sregs does not have. Reset value of each in KVM: 0.
constexpr std::array kUnlisted = {
    MsrRange{0x174, 1},        // IA32_SYSENTER_CS: kvm_pvm does not list it
    MsrRange{0x1D9, 1},        // IA32_DEBUGCTL: listed by some
    MsrRange{0x200, 16},       // IA32_MTRR_PHYSBASEn and PHYSMASKn
    MsrRange{0x250, 1},        // IA32_MTRR_FIX64K
    MsrRange{0x258, 2},        // IA32_MTRR_FIX16K
    MsrRange{0x268, 8},        // IA32_MTRR_FIX4K
    MsrRange{0x2FF, 1},        // IA32_MTRR_DEF_TYPE
    MsrRange{0x400, 4 * 32},   // IA32_MCi_CTL, STATUS, ADDR and MISC: Linux sets CTL of each bank
    MsrRange{0xC000'0103, 1},  // IA32_TSC_AUX: kvm_pvm does not list it
    MsrRange{kMsrDeCfg, 1},    // serializing LFENCE
};

bool contains(std::span<const std::uint32_t> indices, std::uint32_t index) {
  return std::ranges::find(indices, index) != indices.end();
}

template <typename T>
Result<T> get(const Vcpu& vcpu, unsigned long request, std::string_view name) {
  T value{};
  if (auto done = vcpu.control(request, &value, name); !done) return propagate(done);
  return value;
}

template <typename T>
Status set(const Vcpu& vcpu, unsigned long request, const T& value, std::string_view name) {
  return vcpu.control(request, const_cast<T*>(&value), name);  // a _IOW: KVM only reads it
}

}  // namespace

KeptMsrs kept_msrs(std::span<const std::uint32_t> listed, std::span<const std::uint32_t> others) {
  KeptMsrs kept;
  for (const std::span<const std::uint32_t> indices : {listed, others})
    for (const std::uint32_t index : indices)
      if (!contains(kept.always, index)) kept.always.push_back(index);
  for (const MsrRange& range : kUnlisted)
    for (std::uint32_t index = range.first; index < range.first + range.count; ++index)
      if (!contains(kept.always, index)) kept.where_set.push_back(index);
  return kept;
}

Result<VcpuState> save_vcpu(const Vcpu& vcpu, const KeptMsrs& kept) {
  VcpuState state;
  // First: asking for it makes KVM take pending INIT and SIPI signals in, which changes what follows.
  auto mp_state = get<kvm_mp_state>(vcpu, KVM_GET_MP_STATE, "KVM_GET_MP_STATE");
  if (!mp_state) return propagate(mp_state);
  state.mp_state = *mp_state;
  auto regs = vcpu.regs();
  if (!regs) return propagate(regs);
  state.regs = *regs;
  auto sregs = vcpu.sregs();
  if (!sregs) return propagate(sregs);
  state.sregs = *sregs;
  auto xsave = vcpu.xsave();
  if (!xsave) return propagate(xsave);
  state.xsave = std::move(*xsave);
  auto xcrs = get<kvm_xcrs>(vcpu, KVM_GET_XCRS, "KVM_GET_XCRS");
  if (!xcrs) return propagate(xcrs);
  state.xcrs = *xcrs;
  auto debug_regs = get<kvm_debugregs>(vcpu, KVM_GET_DEBUGREGS, "KVM_GET_DEBUGREGS");
  if (!debug_regs) return propagate(debug_regs);
  state.debug_regs = *debug_regs;
  auto lapic = get<kvm_lapic_state>(vcpu, KVM_GET_LAPIC, "KVM_GET_LAPIC");
  if (!lapic) return propagate(lapic);
  state.lapic = *lapic;
  state.tsc_khz = vcpu.tsc_khz();
  auto cpuid = vcpu.cpuid();
  if (!cpuid) return propagate(cpuid);
  state.cpuid = std::move(*cpuid);
  auto msrs = vcpu.msrs(kept.always);
  if (!msrs) return propagate(msrs);
  state.msrs = std::move(*msrs);
  auto unlisted = vcpu.msrs(kept.where_set);
  if (!unlisted) return propagate(unlisted);
  std::ranges::copy_if(*unlisted, std::back_inserter(state.msrs), [](const auto& entry) { return entry.data != 0; });
  auto events = get<kvm_vcpu_events>(vcpu, KVM_GET_VCPU_EVENTS, "KVM_GET_VCPU_EVENTS");
  if (!events) return propagate(events);
  state.events = *events;
  return state;
}

Result<VcpuState> save_interrupt_state(const Vcpu& vcpu) {
  VcpuState state;
  auto sregs = vcpu.sregs();
  if (!sregs) return propagate(sregs);
  state.sregs = *sregs;
  auto lapic = get<kvm_lapic_state>(vcpu, KVM_GET_LAPIC, "KVM_GET_LAPIC");
  if (!lapic) return propagate(lapic);
  state.lapic = *lapic;
  auto events = get<kvm_vcpu_events>(vcpu, KVM_GET_VCPU_EVENTS, "KVM_GET_VCPU_EVENTS");
  if (!events) return propagate(events);
  state.events = *events;
  return state;
}

namespace {

/// All but what no guest changes: CPUID, and the rate of the time stamp counter.
Status set_state(const Vcpu& vcpu, const VcpuState& state, std::uint64_t tsc_advance) {
  if (auto done = set(vcpu, KVM_SET_MP_STATE, state.mp_state, "KVM_SET_MP_STATE"); !done) return done;
  if (auto done = vcpu.set_regs(state.regs); !done) return done;
  if (auto done = vcpu.set_sregs(state.sregs); !done) return done;  // with the LAPIC's base, before its registers
  if (auto done = set(vcpu, KVM_SET_XCRS, state.xcrs, "KVM_SET_XCRS"); !done) return done;
  if (auto done = vcpu.set_xsave(state.xsave); !done) return done;
  if (auto done = set(vcpu, KVM_SET_DEBUGREGS, state.debug_regs, "KVM_SET_DEBUGREGS"); !done) return done;
  if (auto done = set(vcpu, KVM_SET_LAPIC, state.lapic, "KVM_SET_LAPIC"); !done) return done;
  // After the LAPIC, whose timer's mode says what a deadline means, and the deadline after the counter that it is of.
  std::vector<MsrValue> msrs;
  msrs.reserve(state.msrs.size() + 1);
  std::optional<MsrValue> deadline;
  for (const kvm_msr_entry& entry : state.msrs) {
    MsrValue value{.index = entry.index, .value = entry.data};
    if (entry.index == kMsrTsc) {
      value.value += tsc_advance;
      // Before Linux 6.7 KVM takes a counter that is set to within a second of what it has counted since the vCPU was
      // made for an attempt to keep vCPUs in step, and ignores the value. No machine of a pool shall depend on how long
      // it has waited: the first vCPU's counter is sent far away before. The others are to be in step with it.
      if (vcpu.index() == 0) msrs.push_back({.index = kMsrTsc, .value = value.value + kFarAway});
    }
    if (entry.index == kMsrTscDeadline)
      deadline = value;
    else
      msrs.push_back(value);
  }
  if (deadline) msrs.push_back(*deadline);
  if (auto done = vcpu.set_msrs(msrs); !done) return done;
  return set(vcpu, KVM_SET_VCPU_EVENTS, state.events, "KVM_SET_VCPU_EVENTS");
}

/// What would act on the guest as it is set back: a deadline that has passed meanwhile interrupts as soon as the LAPIC's
/// registers are set, and page faults that are answered later name what nobody waits for any more.
Status cancel_what_is_due(const Vcpu& vcpu, const VcpuState& state) {
  // First: asking for it makes KVM take pending INIT and SIPI signals in.
  auto mp_state = get<kvm_mp_state>(vcpu, KVM_GET_MP_STATE, "KVM_GET_MP_STATE");
  if (!mp_state) return propagate(mp_state);
  std::vector<MsrValue> off;
  for (const kvm_msr_entry& entry : state.msrs)
    if (entry.index == kMsrTscDeadline || entry.index == kMsrAsyncPageFaults) off.push_back({.index = entry.index});
  return vcpu.set_msrs(off);
}

/// The values of those MSRs now; KVM gives them in the same order.
Result<std::vector<kvm_msr_entry>> present_values(const Vcpu& vcpu, std::span<const MsrValue> of) {
  std::vector<std::uint32_t> indices;
  indices.reserve(of.size());
  for (const MsrValue& each : of) indices.push_back(each.index);
  return vcpu.msrs(indices);
}

}  // namespace

Status restore_vcpu(const Vcpu& vcpu, const VcpuState& state, std::uint64_t tsc_advance) {
  if (state.tsc_khz != 0 && state.tsc_khz != vcpu.tsc_khz())
    if (auto done = vcpu.set_tsc_khz(state.tsc_khz); !done) return done;
  return set_state(vcpu, state, tsc_advance);
}

Result<std::vector<MsrValue>> msrs_left_out(const Vcpu& vcpu, const KeptMsrs& kept, const VcpuState& state) {
  std::vector<std::uint32_t> indices;
  for (const auto* list : {&kept.always, &kept.where_set})
    for (const std::uint32_t index : *list)
      if (std::ranges::find(state.msrs, index, &kvm_msr_entry::index) == state.msrs.end()) indices.push_back(index);
  auto present = vcpu.msrs(indices);
  if (!present) return propagate(present);
  std::vector<MsrValue> values;
  values.reserve(present->size());
  for (const kvm_msr_entry& entry : *present) values.push_back({.index = entry.index, .value = entry.data});
  return values;
}

Status check_can_go_back(const Vcpu& vcpu, const VcpuState& state, std::span<const MsrValue> left_out) {
  std::optional<std::uint64_t> wanted;
  for (const kvm_msr_entry& entry : state.msrs)
    if (entry.index == kMsrDeCfg) wanted = entry.data;
  for (const MsrValue& value : left_out)
    if (value.index == kMsrDeCfg) wanted = value.value;
  if (!wanted) return {};
  const std::array indices{kMsrDeCfg};
  auto present = vcpu.msrs(indices);
  if (!present) return propagate(present);
  if (present->empty() || present->front().data == *wanted) return {};
  return fail(
      ErrorKind::State,
      "the guest has changed MSR {:#x} of vCPU {} from {:#x} to {:#x} since the snapshot, and KVM may not take it "
      "back: load the snapshot into a fresh Mayfly, or take it later in the guest's life",
      kMsrDeCfg, vcpu.index(), *wanted, present->front().data);
}

Status revert_vcpu(const Vcpu& vcpu, const VcpuState& state, std::span<const MsrValue> left_out,
                   std::uint64_t tsc_advance) {
  if (auto done = cancel_what_is_due(vcpu, state); !done) return done;
  if (auto done = set_state(vcpu, state, tsc_advance); !done) return done;
  // Few guests change any of them, and to read one is cheaper than to set it.
  auto present = present_values(vcpu, left_out);
  if (!present) return propagate(present);
  std::vector<MsrValue> changed;
  auto now = present->begin();
  for (const MsrValue& as_new : left_out) {
    if (now == present->end() || now->index != as_new.index) continue;
    if (now++->data != as_new.value) changed.push_back(as_new);
  }
  return vcpu.set_msrs(changed);
}

}  // namespace mayfly
