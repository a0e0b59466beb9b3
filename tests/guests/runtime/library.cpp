#include "runtime/verdict.h"

#include <cstddef>
#include <string_view>

// The functions that compilers and the standard's headers call on their own; without a C library they are ours to
// give. The loops are written so that compilers do not turn them into calls of themselves.

extern "C" {

void* memcpy(void* target, const void* source, std::size_t length) {
  void* to = target;
  asm volatile("rep movsb" : "+D"(to), "+S"(source), "+c"(length)::"memory");
  return target;
}

void* memset(void* target, int value, std::size_t length) {
  void* to = target;
  asm volatile("rep stosb" : "+D"(to), "+c"(length) : "a"(value) : "memory");
  return target;
}

void* memmove(void* target, const void* source, std::size_t length) {
  if (target <= source || static_cast<const char*>(source) + length <= target) return memcpy(target, source, length);
  void* to = static_cast<char*>(target) + length - 1;
  const void* from = static_cast<const char*>(source) + length - 1;
  asm volatile("std; rep movsb; cld" : "+D"(to), "+S"(from), "+c"(length)::"memory");
  return target;
}

int memcmp(const void* left, const void* right, std::size_t length) {
  const auto* a = static_cast<const unsigned char*>(left);
  const auto* b = static_cast<const unsigned char*>(right);
  for (std::size_t index = 0; index < length; ++index) {
    if (a[index] != b[index]) return a[index] - b[index];
    asm volatile("" ::: "memory");
  }
  return 0;
}

void* memchr(const void* bytes, int value, std::size_t length) {
  const auto* at = static_cast<const unsigned char*>(bytes);
  for (std::size_t index = 0; index < length; ++index) {
    if (at[index] == static_cast<unsigned char>(value)) return const_cast<unsigned char*>(at + index);
    asm volatile("" ::: "memory");
  }
  return nullptr;
}

std::size_t strlen(const char* text) {
  std::size_t length = 0;
  while (text[length] != '\0') {
    asm volatile("" ::: "memory");
    ++length;
  }
  return length;
}
}

namespace std {

// What libstdc++ calls where a position is beyond a string_view's end (substr and the like).
// NOLINTNEXTLINE(bugprone-reserved-identifier): the name is the library's.
void __throw_out_of_range_fmt(const char* what, ...) { guest::fail(what); }

}  // namespace std
