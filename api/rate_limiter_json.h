#pragma once

#include "api/json_reader.h"
#include "vmm/base/json_writer.h"
#include "vmm/config/configuration.h"

/// JSON of limits: token buckets, and the pair of them that a drive or one direction of a network interface has.
///
///   {"bandwidth": {"size": 1048576, "refill_time": 1000, "one_time_burst": 4194304}, "ops": null}
namespace mayfly {

/// A token bucket: size and refill_time (ms) are required. Either being 0 is no limit, as in the dialect.
[[nodiscard]] Result<TokenBucketConfig> read_token_bucket(const JsonValue& json, const std::string& where);
void write_token_bucket(JsonWriter& json, const TokenBucketConfig& bucket);

/// Both buckets are optional.
[[nodiscard]] Result<RateLimiterConfig> read_rate_limiter(const JsonValue& json, const std::string& where);
/// The limiter as the field `name`; nothing where there is none.
void write_rate_limiter(JsonWriter& json, std::string_view name, const std::optional<RateLimiterConfig>& limiter);

}  // namespace mayfly
