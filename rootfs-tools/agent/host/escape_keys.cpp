#include "rootfs-tools/agent/host/escape_keys.h"

#include <utility>

namespace mayfly::agent {

EscapeKeys::Passed EscapeKeys::pass(std::string_view typed) {
  Passed passed;
  for (const char key : typed) {
    if (after_ == After::Tilde && key == '.') return {.keys = std::move(passed.keys), .leaves = true};
    if (after_ == After::Enter && key == '~') {
      after_ = After::Tilde;
      continue;
    }
    if (after_ == After::Tilde && key != '~') passed.keys.push_back('~');
    passed.keys.push_back(key);
    after_ = key == '\r' || key == '\n' ? After::Enter : After::Other;
  }
  return passed;
}

}  // namespace mayfly::agent
