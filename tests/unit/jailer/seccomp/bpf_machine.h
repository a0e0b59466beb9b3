#pragma once

#include <asm/unistd.h>
#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/seccomp.h>

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <initializer_list>
#include <span>
#include <stdexcept>

/// What a filter answers to a system call, found by running it: the instructions that libseccomp writes, and no others.
namespace mayfly::seccomp::testing {

/// `arch` and the number's x32 bit as the kernel would set them.
inline seccomp_data call_of(int number, std::initializer_list<std::uint64_t> arguments = {}) {
  seccomp_data data{};
  data.nr = number;
  data.arch = AUDIT_ARCH_X86_64;
  std::size_t i = 0;
  for (const std::uint64_t each : arguments) data.args[i++] = each;
  return data;
}

/// The action, such as SECCOMP_RET_ALLOW.
inline std::uint32_t answer_to(std::span<const sock_filter> program, const seccomp_data& data) {
  std::uint32_t a = 0;
  for (std::size_t at = 0; at < program.size(); ++at) {
    const sock_filter& each = program[at];
    const auto jump = [&](bool taken) { at += taken ? each.jt : each.jf; };
    switch (each.code) {
      case BPF_LD | BPF_W | BPF_ABS:
        if (each.k > sizeof data - sizeof a) throw std::runtime_error("a load beyond seccomp_data");
        std::memcpy(&a, reinterpret_cast<const char*>(&data) + each.k, sizeof a);
        break;
      case BPF_ALU | BPF_AND | BPF_K:
        a &= each.k;
        break;
      case BPF_JMP | BPF_JA:
        at += each.k;
        break;
      case BPF_JMP | BPF_JEQ | BPF_K:
        jump(a == each.k);
        break;
      case BPF_JMP | BPF_JGE | BPF_K:
        jump(a >= each.k);
        break;
      case BPF_JMP | BPF_JGT | BPF_K:
        jump(a > each.k);
        break;
      case BPF_RET | BPF_K:
        return each.k;
      default:
        throw std::runtime_error("an instruction that this machine does not know");
    }
  }
  throw std::runtime_error("a program without an end");
}

/// That of two filters, the second on top of the first: the kernel takes the stricter action, which has the lower value
/// (as signed numbers, seccomp(2)).
inline std::uint32_t answer_to(std::span<const sock_filter> below, std::span<const sock_filter> on_top,
                               const seccomp_data& data) {
  const auto first = static_cast<std::int32_t>(answer_to(below, data));
  const auto second = static_cast<std::int32_t>(answer_to(on_top, data));
  return static_cast<std::uint32_t>(std::min(first, second));
}

}  // namespace mayfly::seccomp::testing
