#!/usr/bin/env bash
# Writes the passwords of a laptop stack, once: random, and the same for both ends of each door.
#   FOLDER/remelt/   what Remelt's processes read (REMELT_SECRETS_DIR)
#   FOLDER/servers/  what Postgres, RabbitMQ and SeaweedFS read
# Usage: k8s/make-secrets.sh [FOLDER]     (default: k8s/secrets, which git ignores)
set -euo pipefail
folder="${1:-$(dirname "$0")/secrets}"
if [ -e "$folder/remelt" ]; then
  echo "$folder/remelt is there already: nothing done (remove it for new passwords)" >&2
  exit 0
fi
random() { head -c 24 /dev/urandom | od -An -tx1 | tr -d ' \n'; }
postgres="$(random)" rabbitmq="$(random)" s3="$(random)"

# The folder keeps other users of this machine out. The files themselves must be readable: compose
# mounts them as they are, and the containers run as users of their own.
umask 077
mkdir -p "$folder"
mkdir -p "$folder/servers" "$folder/remelt.new"
umask 022
put() { printf '%s' "$2" > "$folder/$1"; chmod 644 "$folder/$1"; }
put servers/postgres_password "$postgres"
put servers/rabbitmq_user.conf "default_user = remelt
default_pass = $rabbitmq
"
put servers/seaweedfs_s3.json "{\"identities\": [{\"name\": \"remelt\", \"actions\": [\"Admin\", \"Read\", \"Write\", \"List\"],
  \"credentials\": [{\"accessKey\": \"remelt\", \"secretKey\": \"$s3\"}]}]}
"
put remelt.new/remelt_database_url "postgresql://remelt:$postgres@postgres:5432/remelt"
put remelt.new/remelt_broker_url "amqp://remelt:$rabbitmq@rabbitmq:5672//"
put remelt.new/remelt_s3_access_key remelt
put remelt.new/remelt_s3_secret_key "$s3"
# last, in one step: a run that was interrupted is not taken for a finished one
mv "$folder/remelt.new" "$folder/remelt"
echo "wrote $folder"
