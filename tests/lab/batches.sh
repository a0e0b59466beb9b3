# Runs the cases of a script in labs, a batch at a time. To be sourced, by a script that has set: guests (the command,
# which knows --list), work; and may have set passed, failed and skipped.

# run_batches BATCH SECONDS [CASE...]: ends with the count.
run_batches() {
  local batch=$1 seconds=$2 good bad
  shift 2
  passed=${passed:-0} failed=${failed:-0} skipped=${skipped:-0}
  local -a cases
  local -A strikes
  if [ $# -gt 0 ]; then cases=("$@"); else mapfile -t cases < <("${guests[@]}" --list); fi

  # One CPU: with two, the software CPUs now and then lose an interrupt between them, and the lab's own kernel locks up.
  # Where the lab itself dies all the same, the case at hand is tried once more in a fresh one. A guest's failure is a
  # failure at once.
  while [ ${#cases[@]} -gt 0 ]; do
    tests/lab/lab --cpus 1 --memory 3072 --timeout "$seconds" -- "${guests[@]}" "${cases[@]:0:batch}" | tee "$work/output" |
      grep --line-buffered -vE '^[0-9]+ passed, [0-9]+ failed$' || true
    good=$(grep -c '^ok ' "$work/output" || true) bad=$(grep -c '^FAILED ' "$work/output" || true)
    passed=$((passed + good)) failed=$((failed + bad))
    cases=("${cases[@]:good + bad}")
    [ $((good + bad)) -lt "$batch" ] && [ ${#cases[@]} -gt 0 ] || continue
    strikes[${cases[0]}]=$((${strikes[${cases[0]}]:-0} + 1))
    if [ "${strikes[${cases[0]}]}" -ge 2 ]; then
      failed=$((failed + 1))
      echo "FAILED  ${cases[0]}: the lab ended twice in it"
      cases=("${cases[@]:1}")
    else
      echo "the lab ended in ${cases[0]}; once more, in a fresh lab"
    fi
  done
  if [ "$skipped" -gt 0 ]; then
    echo "$passed passed, $failed failed, $skipped skipped"
  else
    echo "$passed passed, $failed failed"
  fi
  [ "$failed" -eq 0 ]
}
