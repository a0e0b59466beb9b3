// The absolute paths of the sources and of the build. They are compiled into this file alone, since a compiler's cache does
// not know a file again in another clone whose options have them.
#include "tests/support/files.h"

namespace mayfly::testing {

std::string project_file(const std::string& name) { return std::string{MAYFLY_SOURCES} + "/" + name; }

std::string build_file(const std::string& name) { return std::string{MAYFLY_BUILD} + "/" + name; }

}  // namespace mayfly::testing
