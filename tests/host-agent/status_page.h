#pragma once

#include <string_view>

/// status_page.html, which draws what GET /stats says.
namespace mayfly::host_agent {

[[nodiscard]] std::string_view status_page();

}  // namespace mayfly::host_agent
