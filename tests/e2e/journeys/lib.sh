# What the journeys share. NAMESPACE is theirs alone, and kubectl talks to the cluster as somebody
# who may edit it.
set -euo pipefail
export PS4='+ line $LINENO: '

k() { kubectl --namespace "$NAMESPACE" "$@"; }

fail() {
  echo "FAILED: $*" >&2
  exit 1
}

# is WANTED FOUND WHAT
is() { [ "$1" = "$2" ] || fail "$3: '$2' instead of '$1'"; }

# refused WORDS COMMAND...: the command fails, and says these words.
refused() {
  local words=$1 said
  shift
  if said=$("$@" 2>&1); then fail "was allowed: $*"; fi
  case $said in *"$words"*) ;; *) fail "'$said' does not say '$words'" ;; esac
}

# digest TEXT: the name of an image that nobody else has.
digest() { printf 'sha256:%s' "$(printf '%s/%s' "$NAMESPACE" "$1" | sha256sum | cut -d' ' -f1)"; }

# map STREAM TAG DIGEST [REPOSITORY]: what a push does in the end.
map() {
  local repository=${4:-registry.example:5000/$NAMESPACE/$1}
  k create -f - <<END
apiVersion: image.alauda.io/v1
kind: ImageStreamMapping
metadata: {name: $1}
image:
  metadata: {name: "$3"}
  dockerImageReference: "$repository@$3"
  dockerImageManifestMediaType: application/vnd.oci.image.index.v1+json
tag: "$2"
END
}

# image STREAM:TAG: which image a tag points to.
image() { k get istag "$1" -o jsonpath='{.image.metadata.name}'; }
