# Medians and tables of files with one number a line; as Series in series.h. Sourced by the scripts of this folder.

# quantile FRACTION-IN-PERCENT FILE
quantile() {
  sort -n "$2" | awk -v q="$1" '{v[NR] = $1}
    END {p = q / 100 * (NR - 1); i = int(p); w = p - i; b = v[i + 2] == "" ? v[i + 1] : v[i + 2]
         printf "%.1f", v[i + 1] * (1 - w) + b * w}'
}
median() { quantile 50 "$1"; }

table_head() { printf '\n%-34s %5s %9s %9s %9s %9s %9s  (%s)\n' "$1" n least 10% median 90% most "$2"; }
table_row() {
  printf '%-34s %5d %9s %9s %9s %9s %9s\n' "$1" "$(wc -l <"$2")" "$(quantile 0 "$2")" "$(quantile 10 "$2")" \
    "$(median "$2")" "$(quantile 90 "$2")" "$(quantile 100 "$2")"
}
