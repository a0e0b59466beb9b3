# Runs the cases of a script in labs, a batch at a time. To be sourced, by a script that has set: guests (the command,
# which knows --list), work; and may have set passed, failed and skipped.

# Whether guests run in the lab's software CPU here.
in_software() { ! { [ -w /dev/kvm ] && grep -qwE 'svm|vmx' /proc/cpuinfo; }; }

# So many cases a run may pass at their second try; more are failures.
most_second_tries=$(sed -n 's/^most_second_tries = //p' tests/pytest.ini)
readonly most_second_tries

# Where nothing is said for so long, it is the lab that hangs: whatever a case waits for has less time.
readonly longest_silence=300

# one_failure WORDS...: what no case failed of.
one_failure() { failed=$((failed + 1)); echo "FAILED  $*"; }

# list_cases: sets cases to what --list names. A list that is cut off or empty is a failure, not a suite without cases.
list_cases() {
  local list status=0
  list=$("${guests[@]}" --list) || status=$?
  if [ "$status" -ne 0 ]; then
    one_failure "the list of cases: ${guests[0]} --list ended with $status"
  elif [ -z "$list" ]; then
    one_failure "the list of cases: ${guests[0]} --list named none"
  else
    mapfile -t cases <<<"$list"
  fi
}

# run_batch SECONDS CASE...: sets reached to how many of the cases were run, bad to those that failed.
run_batch() {
  local seconds=$1 good status=0
  shift
  tests/lab/lab --cpus 1 --memory 3072 --timeout "$seconds" --silence "$longest_silence" -- "${guests[@]}" "$@" |
    tee "$work/output" | { grep --line-buffered -vE '^[0-9]+ passed, [0-9]+ failed$' || true; } || status=$?
  good=$(grep -c '^ok ' "$work/output" || true)
  mapfile -t bad < <(sed -n 's/^FAILED  \([^ ]*\).*/\1/p' "$work/output")
  passed=$((passed + good)) reached=$((good + ${#bad[@]}))
  if [ "$reached" -lt $# ]; then
    reached=$((reached + 1))
    echo "the lab ended in ${!reached}"
    bad+=("${!reached}")
  elif [ "$status" -ne 0 ] && [ ${#bad[@]} -eq 0 ]; then
    one_failure "the lab ended with $status after its last case"
  fi
}

# run_batches BATCH SECONDS [CASE...]: ends with the count; before it, the count of second tries, if there were any.
run_batches() {
  local batch=$1 seconds=$2 name reached
  shift 2
  passed=${passed:-0} failed=${failed:-0} skipped=${skipped:-0}
  local -a cases=() bad=() again=()
  local -A tried=()
  if [ $# -gt 0 ]; then cases=("$@"); else list_cases; fi

  # One CPU, since others work on this machine meanwhile. A case that fails in software is tried once more, in a fresh lab,
  # and counted: README.md names the causes. On hardware a failure is one at once.
  while [ ${#cases[@]} -gt 0 ]; do
    run_batch "$seconds" "${cases[@]:0:batch}"
    cases=("${cases[@]:reached}")
    for name in "${bad[@]}"; do
      if in_software && [ -z "${tried[$name]:-}" ] && [ ${#tried[@]} -lt "$most_second_tries" ]; then
        tried[$name]=yes
        cases+=("$name")
        echo "$name will be tried once more, since this is the software lab"
      else
        tried[$name]=failed
        one_failure "$name, for good"
      fi
    done
  done
  for name in "${!tried[@]}"; do [ "${tried[$name]}" = failed ] || again+=("$name"); done
  if [ ${#again[@]} -gt 0 ]; then
    echo "${#again[@]} of them at the second try: $(printf '%s\n' "${again[@]}" | sort | paste -sd ' ')"
  fi
  if [ "$skipped" -gt 0 ]; then
    echo "$passed passed, $failed failed, $skipped skipped"
  else
    echo "$passed passed, $failed failed"
  fi
  [ "$failed" -eq 0 ]
}
