#include "jailer/seccomp/compiler.h"

#include "jailer/seccomp/blob.h"
#include "vmm/base/owned_fd.h"

#include <seccomp.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cerrno>
#include <memory>

namespace mayfly::seccomp {
namespace {

using Context = std::unique_ptr<void, decltype([](scmp_filter_ctx context) { ::seccomp_release(context); })>;

/// libseccomp's errors are errnos, negated.
std::unexpected<Error> refused(int result, std::string_view what) {
  errno = -result;
  return fail_errno(ErrorKind::System, "libseccomp refused {}", what);
}

scmp_arg_cmp comparison_of(const Condition& condition) {
  switch (condition.kind) {
    case Condition::Kind::Within:
      return {condition.argument, SCMP_CMP_MASKED_EQ, ~condition.value, 0};
    case Condition::Kind::OwnProcess:
      return {condition.argument, SCMP_CMP_EQ, kOwnProcess, 0};
    case Condition::Kind::Equals:
      break;
  }
  return {condition.argument, SCMP_CMP_EQ, condition.value, 0};
}

Status add(scmp_filter_ctx context, const Entry& entry, std::uint32_t action) {
  const int number = ::seccomp_syscall_resolve_name(entry.call.c_str());
  if (number < 0)
    return fail(ErrorKind::NotFound, "line {}: there is no system call '{}' on this machine; see syscalls(2)",
                entry.line, entry.call);
  std::vector<scmp_arg_cmp> comparisons;
  comparisons.reserve(entry.conditions.size());
  for (const Condition& condition : entry.conditions) comparisons.push_back(comparison_of(condition));
  const int result = ::seccomp_rule_add_exact_array(context, action, number, static_cast<unsigned>(comparisons.size()),
                                                    comparisons.data());
  if (result != 0) return refused(result, fmt::format("line {}, {}", entry.line, entry.call));
  return {};
}

/// libseccomp writes programs to descriptors alone.
Result<std::vector<sock_filter>> program_of(scmp_filter_ctx context) {
  const OwnedFd file{::memfd_create("filter", MFD_CLOEXEC)};
  if (!file) return fail_errno(ErrorKind::System, "cannot make a file in memory");
  if (const int result = ::seccomp_export_bpf(context, file.get()); result != 0) return refused(result, "to compile");
  const off_t size = ::lseek(file.get(), 0, SEEK_END);
  std::vector<sock_filter> program(static_cast<std::size_t>(size) / sizeof(sock_filter));
  if (::pread(file.get(), program.data(), static_cast<std::size_t>(size), 0) != size)
    return fail_errno(ErrorKind::System, "cannot read a file in memory");
  return program;
}

/// What the lines of a program stand for.
enum class Lists { Allowed, Refused };

std::uint32_t action_of(const Entry& entry, Lists lists) {
  if (lists == Lists::Refused) return SCMP_ACT_TRAP;
  return entry.answer ? SCMP_ACT_ERRNO(static_cast<std::uint32_t>(*entry.answer)) : SCMP_ACT_ALLOW;
}

Result<std::vector<sock_filter>> compile(const std::vector<Entry>& entries, Lists lists) {
  const Context context{::seccomp_init(lists == Lists::Allowed ? SCMP_ACT_TRAP : SCMP_ACT_ALLOW)};
  if (!context) return fail(ErrorKind::System, "libseccomp refused to begin");
  for (const auto& [attribute, value] : {std::pair{SCMP_FLTATR_ACT_BADARCH, SCMP_ACT_TRAP},
                                         std::pair{SCMP_FLTATR_CTL_OPTIMIZE, std::uint32_t{2}}})  // a binary tree
    if (const int result = ::seccomp_attr_set(context.get(), attribute, value); result != 0)
      return refused(result, "an attribute");
  for (const Entry& entry : entries)
    if (auto added = add(context.get(), entry, action_of(entry, lists)); !added) return propagate(added);
  return program_of(context.get());
}

Result<CompiledFilter> compile(const FilterText& text, const ThreadFilter& thread) {
  auto program = compile(entries_of(text, thread), Lists::Allowed);
  if (!program) return propagate(program, "[" + thread.name + "]");
  if (const auto withdrawn = withdrawn_by(text, thread)) {
    auto refusing = compile(*withdrawn, Lists::Refused);
    if (!refusing) return propagate(refusing, "[" + thread.name + "]");
    if (refusing->size() < program->size()) program = std::move(refusing);
  }
  if (program->size() > BPF_MAXINSNS)
    return fail(ErrorKind::TooLarge, "[{}] makes {} instructions, and the kernel takes {}; leave arguments unchecked",
                thread.name, program->size(), BPF_MAXINSNS);
  return CompiledFilter{.thread = thread.name, .program = std::move(*program)};
}

}  // namespace

Result<std::vector<CompiledFilter>> compile_filters(const FilterText& text) {
  std::vector<CompiledFilter> all;
  for (const ThreadFilter& thread : text.threads) {
    auto compiled = compile(text, thread);
    if (!compiled) return propagate(compiled);
    all.push_back(std::move(*compiled));
  }
  return all;
}

}  // namespace mayfly::seccomp
