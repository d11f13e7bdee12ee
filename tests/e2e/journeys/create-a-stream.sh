# 28, without the import: a stream is made, shows up, and says where to push to.
k create -f - <<END
apiVersion: image.alauda.io/v1
kind: ImageStream
metadata: {name: demo}
spec: {lookupPolicy: {local: false}}
END
is demo "$(k get is --no-headers -o custom-columns=N:.metadata.name)" "the streams"
is "registry.example:5000/$NAMESPACE/demo" \
  "$(k get is demo -o jsonpath='{.status.dockerImageRepository}')" "where to push to"
map demo latest "$(digest one)"
is latest "$(k get is demo --no-headers | awk '{print $3}')" "the tags of the table"
is "registry.example:5000/$NAMESPACE/demo@$(digest one)" \
  "$(k get istag demo:latest -o jsonpath='{.image.dockerImageReference}')" "where to pull from"
k get isimage "demo@$(digest one)" >/dev/null
refused "not found" k get istag demo:none

# An index is mapped by its digest alone, and a stream that is missing is made on the way.
map fresh v1 "$(digest index)"
is "$(digest index)" "$(image fresh:v1)" "the image of a mapping"
k delete is demo fresh
is "" "$(k get istag,itag -o name)" "tags without streams"
