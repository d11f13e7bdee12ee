# 16 and 30: what lies in another namespace can be tagged by who may pull it there, and by nobody else.
other=$NAMESPACE-other
KUBECONFIG=$ADMIN kubectl create namespace "$other"
NAMESPACE=$other KUBECONFIG=$ADMIN map source v1 "$(digest one)"
tag() {
  k create -f - <<END
apiVersion: image.alauda.io/v1
kind: ImageStreamTag
metadata: {name: "copy:$1"}
tag: {from: {kind: ImageStreamTag, namespace: "$other", name: "source:v1"}}
END
}
refused "spec.tags[v1].from: Forbidden: $other/source" tag v1
refused "not found" k get is copy
KUBECONFIG=$ADMIN kubectl create rolebinding pull --namespace "$other" \
  --clusterrole=system:image-puller --user="$USER_NAME"
until kubectl auth can-i get imagestreams.image.alauda.io/source --subresource=layers --namespace "$other" -q; do :; done

until tag v1; do :; done
is "$(digest one)" "$(image copy:v1)" "the copy"
