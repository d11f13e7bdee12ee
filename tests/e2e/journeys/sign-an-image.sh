# 36: signatures are made and deleted with a role of their own, and belong to their image.
map demo v1 "$(digest one)"
signature="$(digest one)@mine"
sign() {
  kubectl create -f - <<END
apiVersion: image.alauda.io/v1
kind: ImageSignature
metadata: {name: "$signature"}
type: AtomicImageV1
content: $(printf 'signed by me' | base64)
END
}
refused Forbidden sign
KUBECONFIG=$ADMIN kubectl create clusterrolebinding "signer-$NAMESPACE" \
  --clusterrole=system:image-signature-writer --user="$USER_NAME"
trap 'KUBECONFIG=$ADMIN kubectl delete clusterrolebinding "signer-$NAMESPACE"' EXIT
until kubectl auth can-i create imagesignatures.image.alauda.io -q; do :; done

sign
signatures() { k get isimage "demo@$(digest one)" -o jsonpath='{.image.signatures[*].metadata.name}'; }
is "$signature" "$(signatures)" "the signatures of the image"
refused AlreadyExists sign
kubectl delete imagesignatures.image.alauda.io "$signature" --wait=false
is "" "$(signatures)" "the signatures after deletion"
